"""LanceDB: one Parquet file with fixed-size vectors, and a loader into its tables."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from workbench.search.engines.export import Batch, Engine, Export, client_library, read_rows, write_rows
from workbench.search.engines.metadata import struct_type
from workbench.search.engines.vectors import hamming_score
from workbench.search.index import Hit

ROWS_FILE = "rows.parquet"


def write(export: Export, batches: Iterable[Batch], columns: pa.Schema) -> None:
    """`rows.parquet`: id, text and vector, of bits as the bytes that LanceDB compares by Hamming distance, and metadata as
    an object, which filters reach as `metadata.NAME`; an empty JSON text where the index has none.

    LanceDB searches no vectors of int8.
    """
    values, length = {
        "float32": (pa.float32(), export.format.kept),
        "float16": (pa.float16(), export.format.kept),
        "bits": (pa.uint8(), export.format.code_bytes),
    }[export.type]
    write_rows(export.folder / ROWS_FILE, pa.list_(values, length), struct_type(columns), batches)


class LanceStore:
    """A table of a LanceDB database; searched exactly until its `table` is given an index.

    Args:
        target: the database's folder or URI.
        options: for `lancedb.connect`.
    """

    def __init__(self, export: Export, target: str, **options: Any) -> None:
        self._export = export
        self._database = client_library("lancedb", "lancedb").connect(target, **options)

    @property
    def table(self) -> Any:
        """LanceDB's own table, for `create_index` and all else."""
        return self._database.open_table(self._export.name)

    def load(self) -> None:
        """See `Store.load`; ValueError when there is a table of that name with other columns."""
        path = self._export.folder / ROWS_FILE
        schema = pq.read_schema(path)
        name = self._export.name
        try:
            table = self._database.create_table(name, schema=schema)
        except ValueError:  # it is there already
            table = self.table
        if not table.schema.equals(schema):
            raise ValueError(f"LanceDB has a table {name} with other columns; export under another name")
        rows = pa.RecordBatchReader.from_batches(schema, read_rows(path))
        table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def search(self, queries: NDArray[np.floating], top: int = 10) -> list[list[Hit]]:
        """See `Store.search`."""
        table = self.table
        return [self._nearest(table, query, top) for query in self._export.asked(queries, top)]

    def close(self) -> None:
        """See `Store.close`; a database in a folder needs none."""

    def _nearest(self, table: Any, query: NDArray[Any], top: int) -> list[Hit]:
        metric = "hamming" if self._export.type == "bits" else "dot"
        nearest = table.search(query, vector_column_name="vector").distance_type(metric).limit(top)
        return [
            Hit(row["id"], row["text"], self._score(row["_distance"]), _present(row["metadata"]))
            for row in nearest.to_arrow().to_pylist()
        ]

    def _score(self, distance: float) -> float:
        return hamming_score(distance, self._export.format) if self._export.type == "bits" else 1 - distance


def _present(metadata: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(metadata, str):
        return {}
    return {name: value for name, value in metadata.items() if value is not None}


ENGINE = Engine(("float32", "float16", "bits"), write, LanceStore)
