"""Milvus: the body that creates a collection and a Parquet file for bulk import, and a loader through its client."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bitembed_core.files import write_json
from workbench.search.engines.export import Batch, Engine, Export, client_library, read_rows, write_rows
from workbench.search.engines.metadata import json_text
from workbench.search.engines.vectors import VectorType, hamming_score
from workbench.search.index import Hit

COLLECTION_FILE, ROWS_FILE = "collection.json", "rows.parquet"
TEXT_BYTES = 65535  # the most that a VarChar holds


class MilvusType(NamedTuple):
    """A vector type of Milvus: its name in REST and in Python, what it is compared by, and its bytes in Parquet."""

    rest: str
    python: str
    metric: str
    parquet: pa.DataType
    default_index: str = "AUTOINDEX"


TYPES: dict[VectorType, MilvusType] = {
    "float32": MilvusType("FloatVector", "FLOAT_VECTOR", "IP", pa.float32()),
    "float16": MilvusType("Float16Vector", "FLOAT16_VECTOR", "IP", pa.uint8()),
    "int8": MilvusType("Int8Vector", "INT8_VECTOR", "COSINE", pa.int8()),
    "bits": MilvusType("BinaryVector", "BINARY_VECTOR", "HAMMING", pa.uint8(), "BIN_FLAT"),
}


def dimension(export: Export) -> int:
    """As Milvus counts it: of bits a multiple of 8; those that are added are zero in every vector."""
    return 8 * export.format.code_bytes if export.type == "bits" else export.format.kept


def write(export: Export, batches: Iterable[Batch], columns: pa.Schema) -> None:
    """`collection.json`, the body of `POST /v2/vectordb/collections/create`, and `rows.parquet` for bulk import.

    Metadata is a JSON field, of which filters read `metadata["NAME"]`.

    Raises:
        ValueError: an id, text or metadata of more than 65535 bytes.
    """
    type_ = TYPES[export.type]
    text = {"dataType": "VarChar", "elementTypeParams": {"max_length": TEXT_BYTES}}
    vector = {"dataType": type_.rest, "elementTypeParams": {"dim": dimension(export)}}
    fields = [
        {"fieldName": "id", "isPrimary": True, **text},
        {"fieldName": "text", **text},
        {"fieldName": "vector", **vector},
        {"fieldName": "metadata", "dataType": "JSON"},
    ]
    index = {"fieldName": "vector", "metricType": type_.metric, "indexType": type_.default_index}
    write_json(
        export.folder / COLLECTION_FILE,
        {
            "collectionName": export.name,
            "schema": {"autoId": False, "enableDynamicField": False, "fields": fields},
            "indexParams": [index],
        },
    )
    write_rows(export.folder / ROWS_FILE, pa.list_(type_.parquet), None, _checked(export, batches))


def _checked(export: Export, batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        for row in batch.rows:
            if max(len(text.encode()) for text in (row.id, row.text, json_text(row.metadata))) > TEXT_BYTES:
                raise ValueError(
                    f"Milvus holds texts and metadata of up to {TEXT_BYTES} bytes; {row.id[:100]!r} has more"
                )
        yield batch._replace(vectors=batch.vectors.view(np.uint8)) if export.type == "float16" else batch


class MilvusStore:
    """A collection of a Milvus server or of Milvus Lite, which has fewer types.

    Args:
        target: the URI of a server, or the file of Milvus Lite.
        index: the index that is built where the collection is new, such as `FLAT`; default Milvus's choice.
        options: for `MilvusClient`, such as `token`.
    """

    def __init__(self, export: Export, target: str, index: str | None = None, **options: Any) -> None:
        self._export, self._type = export, TYPES[export.type]
        self._index = index or self._type.default_index
        self._milvus = client_library("pymilvus", "'pymilvus[milvus-lite]'")
        self.client = self._milvus.MilvusClient(target, **options)

    def load(self) -> None:
        """See `Store.load`; ValueError when there is a collection of that name with other vectors."""
        name, vector = self._export.name, self._milvus.DataType[self._type.python]
        if not self.client.has_collection(name):
            self._create(name, vector)
        fields = {field["name"]: field for field in self.client.describe_collection(name)["fields"]}
        there = fields.get("vector", {"type": None, "params": {"dim": 0}})
        if there["type"] != vector or int(there["params"]["dim"]) != dimension(self._export):
            raise ValueError(f"Milvus has a collection {name} with other vectors; export under another name")
        for batch in read_rows(self._export.folder / ROWS_FILE):
            ids, texts = batch["id"].to_pylist(), batch["text"].to_pylist()
            objects = map(json.loads, batch["metadata"].to_pylist())
            values = batch["vector"].flatten().to_numpy().reshape(len(ids), -1)
            vectors = map(self._value, values)
            self.client.upsert(
                name,
                [
                    {"id": i, "text": t, "vector": v, "metadata": o}
                    for i, t, v, o in zip(ids, texts, vectors, objects, strict=True)
                ],
            )

    def _create(self, name: str, vector: Any) -> None:
        text = self._milvus.DataType.VARCHAR
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", text, is_primary=True, max_length=TEXT_BYTES)
        schema.add_field("text", text, max_length=TEXT_BYTES)
        schema.add_field("vector", vector, dim=dimension(self._export))
        schema.add_field("metadata", self._milvus.DataType.JSON)
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type=self._index, metric_type=self._type.metric)
        self.client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")

    def search(self, queries: NDArray[np.floating], top: int = 10) -> list[list[Hit]]:
        """See `Store.search`."""
        asked = self._export.asked(queries, top)
        if self._export.type == "float16":
            asked = asked.astype(np.float16).view(np.uint8)
        found = self.client.search(
            self._export.name,
            [self._value(query) for query in asked],
            anns_field="vector",
            limit=top,
            output_fields=["text", "metadata"],
            search_params={"metric_type": self._type.metric},
        )
        return [
            [
                Hit(hit["id"], hit["entity"]["text"], self._score(hit["distance"]), hit["entity"]["metadata"])
                for hit in hits
            ]
            for hits in found
        ]

    def close(self) -> None:
        """See `Store.close`."""
        self.client.close()

    def _value(self, vector: NDArray[Any]) -> Any:
        """A row of `rows.parquet` as the client takes it."""
        if self._export.type == "bits":
            return vector.tobytes()
        return vector.view(np.float16) if self._export.type == "float16" else vector

    def _score(self, distance: float) -> float:
        return hamming_score(distance, self._export.format) if self._export.type == "bits" else distance


ENGINE = Engine(tuple(TYPES), write, MilvusStore)
