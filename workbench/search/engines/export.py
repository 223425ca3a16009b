"""A folder with an index in an engine's own files, and the way into an engine that runs."""

import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitembed_core import StorageFormat
from bitembed_core.files import read_json, write_json
from workbench.search.engines.metadata import json_text, struct_array
from workbench.search.engines.vectors import VectorType, asked
from workbench.search.index import Hit
from workbench.search.text_files import TextRow
from workbench.search.vector_search import checked_queries

KIND, VERSION = "bitembed.export", 2  # version 1 had no metadata
MANIFEST_FILE = "export.json"
NAME = re.compile(
    "[a-z][a-z0-9_]{0,47}"
)  # what every engine takes as the name of a table, collection or schema
ROWS_AT_ONCE = 512


class Batch(NamedTuple):
    """Some rows: ids and texts, and the vectors (n, ...) as `stored` has them."""

    rows: list[TextRow]
    vectors: NDArray[Any]


@dataclass(frozen=True)
class Export:
    """What is in an export folder; `export.json` says it.

    Args:
        engine: a name of ENGINES.
        name: of the table, collection or schema.
        type: what the engine is given for each vector.
        format: of the index.
        rows: how many there are.
    """

    folder: Path
    engine: str
    name: str
    type: VectorType
    format: StorageFormat
    rows: int

    def save(self) -> None:
        """Write `export.json`, which makes the folder an export."""
        write_json(
            self.folder / MANIFEST_FILE,
            {
                "kind": KIND,
                "version": VERSION,
                "engine": self.engine,
                "name": self.name,
                "type": self.type,
                "format": self.format.name,
                "dim": self.format.dim,
                "rows": self.rows,
            },
        )

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what an export folder holds.

        Raises:
            FileNotFoundError: there is no export.
            ValueError: `export.json` is damaged or of another version.
        """
        folder = Path(folder)
        if not (folder / MANIFEST_FILE).is_file():
            raise FileNotFoundError(f"there is no export in {folder}; make one with `bitembed export-index`")
        said = read_json(folder / MANIFEST_FILE)
        if said.get("kind") != KIND or said.get("version") != VERSION:
            raise ValueError(
                f"{folder / MANIFEST_FILE} is no export of version {VERSION}; make it again from the index"
            )
        if said["type"] not in get_args(VectorType) or not NAME.fullmatch(said["name"]):
            raise ValueError(f"{folder / MANIFEST_FILE} is damaged")
        form = StorageFormat(said["format"], said["dim"])
        return cls(folder, said["engine"], said["name"], cast(VectorType, said["type"]), form, said["rows"])

    def asked(self, queries: NDArray[np.floating], top: int) -> NDArray[Any]:
        """Queries (q, d), or (d,) for one, as the engine compares them; ValueError as `VectorSearch.best` has it."""
        queries_QD = checked_queries(np.atleast_2d(queries), self.format.dim, top)
        return asked(queries_QD, self.format, self.type)


class Store(Protocol):
    """A running or embedded engine, for one export."""

    def load(self) -> None:
        """Bring every row of the export into the engine; rows with the same ids are replaced, so it may be repeated."""

    def search(self, queries: NDArray[np.floating], top: int = 10) -> list[list[Hit]]:
        """What the engine finds for each query (q, d), best first, with cosine similarities as scores."""

    def close(self) -> None:
        """Leave the engine."""


@dataclass(frozen=True)
class Engine:
    """One engine.

    Args:
        types: what it can be given for a vector.
        write: `write(export, batches, columns)` puts the engine's files into `export.folder`; the columns are those of the
            index, with id and text.
        store: `store(export, target, **options)` connects to the engine; see each store for what a target is.
    """

    types: tuple[VectorType, ...]
    write: Callable[[Export, Iterable[Batch], pa.Schema], None]
    store: Callable[..., Store]


def client_library(module: str, package: str) -> Any:
    """An optional library; ValueError says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} is not installed; get it with `pip install {package}`") from error


def number_list(values: NDArray[np.floating]) -> str:
    """A vector as `[1,2,3]`, with digits enough to be read back as it is."""
    digits = 5 if values.dtype == np.float16 else 9
    return f"[{','.join([f'{value:.{digits}g}' for value in values.tolist()])}]"


def write_rows(
    path: Path, vectors: pa.DataType, metadata: pa.StructType | None, batches: Iterable[Batch]
) -> None:
    """A Parquet file with the columns id, text, vector, of type `vectors`, and metadata: objects of a type, or JSON."""
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("vector", vectors),
            ("metadata", metadata or pa.string()),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            n, length = batch.vectors.shape
            flat = pa.array(np.ascontiguousarray(batch.vectors).reshape(-1))
            if pa.types.is_fixed_size_list(vectors):
                column = pa.FixedSizeListArray.from_arrays(flat, length)
            else:
                column = pa.ListArray.from_arrays(np.arange(n + 1, dtype=np.int32) * length, flat)
            ids, texts = [row.id for row in batch.rows], [row.text for row in batch.rows]
            kept = [row.metadata for row in batch.rows]
            objects = (
                struct_array(kept, metadata) if metadata else pa.array(map(json_text, kept), pa.string())
            )
            writer.write_table(pa.table([ids, texts, column, objects], schema=schema))


def read_rows(path: Path) -> Iterator[pa.RecordBatch]:
    """What `write_rows` wrote, ROWS_AT_ONCE at a time."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(ROWS_AT_ONCE)
