"""Qdrant: the body that creates a collection and one point a line, and a loader through its client."""

import json
import uuid
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitembed_core.files import read_json, write_json
from workbench.search.engines.export import ROWS_AT_ONCE, Batch, Engine, Export, client_library, number_list
from workbench.search.engines.metadata import json_text
from workbench.search.engines.vectors import hamming_score
from workbench.search.index import Hit

COLLECTION_FILE, POINTS_FILE = "collection.json", "points.jsonl"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "bitembed:text")


def point_id(id_: str) -> str:
    """A point's id, which Qdrant wants to be a number or UUID: always the same for the same text id."""
    return str(uuid.uuid5(NAMESPACE, id_))


def write(export: Export, batches: Iterable[Batch], columns: pa.Schema) -> None:
    """`collection.json`, the body of `PUT /collections/NAME`, and `points.jsonl`: points as `PUT .../points` takes them.

    A payload has the id, the text and an object `metadata`, which filters reach as `metadata.NAME`.

    Qdrant has no type of one bit. Bits become 0 and 1 in bytes, whose Manhattan distance is the Hamming distance. Its bytes
    have no sign, so cosines of int8 codes would be wrong; Qdrant's own scalar quantization of float16 takes as much room.
    """
    is_bits = export.type == "bits"
    vectors = {
        "size": export.format.kept,
        "distance": "Manhattan" if is_bits else "Dot",
        "datatype": "uint8" if is_bits else export.type,
    }
    write_json(export.folder / COLLECTION_FILE, {"vectors": vectors})
    with (export.folder / POINTS_FILE).open("w", encoding="utf-8") as file:
        for batch in batches:
            for row, vector in zip(batch.rows, batch.vectors, strict=True):
                payload = json_text({"id": row.id, "text": row.text, "metadata": row.metadata})
                file.write(
                    f'{{"id":"{point_id(row.id)}","vector":{_numbers(vector, export)},"payload":{payload}}}\n'
                )


class QdrantStore:
    """A collection of a Qdrant server, or of its local mode.

    Args:
        target: the URL of a server, a folder for the local mode, or `:memory:`.
        options: for `QdrantClient`, such as `api_key`.
    """

    def __init__(self, export: Export, target: str, **options: Any) -> None:
        self._export = export
        qdrant = client_library("qdrant_client", "qdrant-client")
        place = "location" if target == ":memory:" else "url" if "://" in target else "path"
        self._models = qdrant.models
        self.client = qdrant.QdrantClient(**{place: target}, **options)

    def load(self) -> None:
        """See `Store.load`; ValueError when there is a collection of that name with other vectors."""
        models, name = self._models, self._export.name
        wanted = models.VectorParams(**read_json(self._export.folder / COLLECTION_FILE)["vectors"])
        if not self.client.collection_exists(name):
            self.client.create_collection(name, vectors_config=wanted)
        there = self.client.get_collection(name).config.params.vectors
        if (there.size, there.distance) != (wanted.size, wanted.distance):
            raise ValueError(f"Qdrant has a collection {name} with other vectors; export under another name")
        with (self._export.folder / POINTS_FILE).open(encoding="utf-8") as lines:
            while some := [models.PointStruct(**json.loads(line)) for line in islice(lines, ROWS_AT_ONCE)]:
                self.client.upsert(name, some, wait=True)

    def search(self, queries: NDArray[np.floating], top: int = 10, exact: bool = False) -> list[list[Hit]]:
        """See `Store.search`; `exact` compares with every vector instead of walking the graph."""
        return [self._nearest(query, top, exact) for query in self._export.asked(queries, top)]

    def close(self) -> None:
        """See `Store.close`."""
        self.client.close()

    def _nearest(self, query: NDArray[Any], top: int, exact: bool) -> list[Hit]:
        points = self.client.query_points(
            self._export.name,
            query=json.loads(_numbers(query, self._export)),
            limit=top,
            with_payload=True,
            search_params=self._models.SearchParams(exact=True) if exact else None,
        ).points
        return [
            Hit(p.payload["id"], p.payload["text"], self._score(p.score), p.payload.get("metadata", {}))
            for p in points
        ]

    def _score(self, score: float) -> float:
        return hamming_score(abs(score), self._export.format) if self._export.type == "bits" else score


def _numbers(vector: NDArray[Any], export: Export) -> str:
    if export.type == "bits":
        return f"[{','.join(map(str, np.unpackbits(vector, count=export.format.kept)))}]"
    return number_list(vector)


ENGINE = Engine(("float32", "float16", "bits"), write, QdrantStore)
