"""Vespa: an application package and a feed, and a loader through the document API."""

import http.client
import json
import re
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workbench.search.engines.export import Batch, Engine, Export
from workbench.search.engines.metadata import texts
from workbench.search.engines.vectors import VectorType
from workbench.search.index import Hit

FEED_FILE = "feed.jsonl"
# cells, distance and how it becomes a cosine
TYPES: dict[VectorType, tuple[str, str, str]] = {
    "float32": ("float", "dotproduct", "closeness(field, embedding)"),
    "float16": ("float", "dotproduct", "closeness(field, embedding)"),
    "int8": ("int8", "angular", "cos(distance(field, embedding))"),
    "bits": ("int8", "hamming", "1 - 2 * distance(field, embedding) / {kept}"),
}
# Vespa refuses control characters other than tab and line ends, and code points that are no characters.
NO_CHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
REFUSED = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\ufdd0-\ufdef{NO_CHARACTERS}]")
BUSY, ATTEMPTS = (429, 503), 8

SERVICES = """\
<?xml version="1.0" encoding="utf-8"?>
<services version="1.0">
  <container id="default" version="1.0">
    <search/>
    <document-api/>
    <nodes><node hostalias="node1"/></nodes>
  </container>
  <content id="{name}" version="1.0">
    <min-redundancy>1</min-redundancy>
    <documents><document type="{name}" mode="index"/></documents>
    <nodes><node hostalias="node1" distribution-key="0"/></nodes>
  </content>
</services>
"""
SCHEMA = """\
schema {name} {{
    document {name} {{
        field text_id type string {{
            indexing: attribute | summary
        }}
        field text type string {{
            indexing: index | summary
        }}
        field metadata type map<string, string> {{
            indexing: summary
            struct-field key {{
                indexing: attribute
            }}
            struct-field value {{
                indexing: attribute
            }}
        }}
        field embedding type {tensor} {{
            indexing: attribute | index
            attribute {{
                distance-metric: {metric}
            }}
            index {{
                hnsw {{
                    max-links-per-node: 16
                    neighbors-to-explore-at-insert: 200
                }}
            }}
        }}
    }}
    rank-profile similarity {{
        inputs {{
            query(q) {tensor}
        }}
        first-phase {{
            expression: {score}
        }}
    }}
}}
"""


def write(export: Export, batches: Iterable[Batch], columns: pa.Schema) -> None:
    """`application/`, to be deployed with `vespa deploy`, and `feed.jsonl` for `vespa feed`.

    Vespa has no tensors of float16; float32 holds their values, twice as large. Tensors are written as hexadecimal digits.
    Metadata is a map of texts, for `metadata contains sameElement(key contains "NAME", value contains "VALUE")`.

    Raises:
        ValueError: an empty id, or an id, text or metadata with characters that Vespa refuses.
    """
    cells, metric, score = TYPES[export.type]
    length = export.format.code_bytes if export.type == "bits" else export.format.kept
    parts = {
        "name": export.name,
        "tensor": f"tensor<{cells}>(x[{length}])",
        "metric": metric,
        "score": score.format(kept=export.format.kept),
    }
    schemas = export.folder / "application" / "schemas"
    schemas.mkdir(parents=True)
    (schemas / f"{export.name}.sd").write_text(SCHEMA.format(**parts), encoding="utf-8")
    (schemas.parent / "services.xml").write_text(SERVICES.format(**parts), encoding="utf-8")
    with (export.folder / FEED_FILE).open("w", encoding="utf-8") as file:
        for batch in batches:
            for row, vector in zip(batch.rows, batch.vectors, strict=True):
                if not row.id:
                    raise ValueError(
                        f"Vespa needs an id for every text, and {row.text[:100]!r} has an empty one"
                    )
                metadata = texts(row.metadata)
                if REFUSED.search("".join((row.id, row.text, *metadata, *metadata.values()))):
                    raise ValueError(
                        f"Vespa refuses control characters; take them out of {row.id[:100]!r} and encode again"
                    )
                fields = {"text_id": row.id, "text": row.text, "metadata": metadata}
                fields["embedding"] = {"values": _hex(vector)}
                operation = {"put": f"id:{export.name}:{export.name}::{row.id}", "fields": fields}
                file.write(f"{json.dumps(operation, ensure_ascii=False)}\n")


class VespaStore:
    """Documents of a Vespa application in which the package has been deployed.

    One document after the other is posted; `vespa feed feed.jsonl` is faster.

    Args:
        target: the container's URL, such as `http://localhost:8080`.
        headers: for every request, such as a token.
    """

    def __init__(self, export: Export, target: str, headers: dict[str, str] | None = None) -> None:
        self._export = export
        url = urlsplit(target)
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ValueError(f"Vespa is reached by a URL such as http://localhost:8080, not {target!r}")
        connection = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._connection = connection(url.netloc, timeout=180)
        self._headers = {"Content-Type": "application/json", **(headers or {})}

    def load(self) -> None:
        """See `Store.load`; OSError when Vespa refuses a document."""
        name = self._export.name
        with (self._export.folder / FEED_FILE).open(encoding="utf-8") as feed:
            for line in feed:
                fields = json.loads(line)["fields"]
                path = f"/document/v1/{name}/{name}/docid/{quote(fields['text_id'], safe='')}"
                self._post(path, {"fields": fields})

    def search(self, queries: NDArray[np.floating], top: int = 10, exact: bool = False) -> list[list[Hit]]:
        """See `Store.search`; `exact` compares with every vector instead of walking the graph."""
        return [self._nearest(query, top, exact) for query in self._export.asked(queries, top)]

    def close(self) -> None:
        """See `Store.close`."""
        self._connection.close()

    def _nearest(self, query: NDArray[Any], top: int, exact: bool) -> list[Hit]:
        annotations = f"targetHits: {top}, approximate: {str(not exact).lower()}"
        answer = self._post(
            "/search/",
            {
                "yql": f"select text_id, text, metadata from {self._export.name} where "
                f"{{{annotations}}}nearestNeighbor(embedding, q)",
                "ranking": "similarity",
                "hits": top,
                "input.query(q)": query.tolist(),
            },
        )
        hits = answer["root"].get("children", [])
        return [
            Hit((f := h["fields"])["text_id"], f.get("text", ""), h["relevance"], f.get("metadata", {}))
            for h in hits
        ]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request, which is repeated while Vespa is busy."""
        for attempt in range(ATTEMPTS):
            self._connection.request("POST", path, json.dumps(body).encode(), self._headers)
            response = self._connection.getresponse()
            said = response.read().decode()
            if response.status == http.client.OK:
                return json.loads(said)
            if response.status not in BUSY or attempt == ATTEMPTS - 1:
                break
            time.sleep(2**attempt / 10)
        raise OSError(f"Vespa answered {path[:200]} with {response.status}: {said[:500]}")


def _hex(vector: NDArray[Any]) -> str:
    """The cells one after the other, the highest byte of each first."""
    if np.issubdtype(vector.dtype, np.floating):
        vector = vector.astype(">f4")
    return vector.tobytes().hex().upper()


ENGINE = Engine(tuple(TYPES), write, VespaStore)
