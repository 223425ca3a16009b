"""An index of packed embeddings with their ids and texts."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.files import atomic_path
from workbench.search.exact import ExactSearch
from workbench.search.sidecar import rows_table, write_sidecar
from workbench.search.text_files import TextRow
from workbench.search.vector_search import NOTHING, Found, VectorSearch

CHECKSUM_KEY = "bitembed.vectors_sha256"


class Hit(NamedTuple):
    """A stored text and its cosine similarity to the query."""

    id: str
    text: str
    score: float
    metadata: Mapping[str, Any] = {}


class TextIndex(VectorSearch, Protocol):
    """Vectors that can be searched, and the texts they are of."""

    def ids(self) -> list[str]: ...

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> Iterable[TextRow]: ...


class PackedIndex:
    """Embeddings of n texts in packed codes, the texts and their ids.

    It is searched exactly, unless `searcher` is set to something else over the same vectors.

    On disk it is two files: `NAME.safetensors` (the embeddings) and `NAME.parquet` beside it (ids, texts and metadata,
    and the checksum of the embeddings they belong to).

    Args:
        metadata: further values of each row by name: text, numbers, dates; not every row needs the same names.
    """

    def __init__(
        self,
        vectors: PackedEmbeddings,
        ids: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not len(vectors) == len(ids) == len(texts):
            raise ValueError(
                f"{len(vectors)} vectors, {len(ids)} ids and {len(texts)} texts do not belong together"
            )
        if metadata is not None and len(metadata) != len(ids):
            raise ValueError(f"metadata of {len(metadata)} rows does not belong to {len(ids)} texts")
        self.vectors = vectors
        self.searcher: VectorSearch = ExactSearch(vectors)
        self.table = rows_table(ids, texts, metadata or [])

    @classmethod
    def of_table(cls, vectors: PackedEmbeddings, table: pa.Table) -> Self:
        """An index whose rows are a table with id, text and columns of metadata."""
        index = cls(vectors[:0], [], [])
        index.vectors, index.searcher, index.table = vectors, ExactSearch(vectors), table
        return index

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def format(self) -> StorageFormat:
        return self.vectors.format

    @property
    def dimension(self) -> int:
        return self.vectors.format.dim

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write both files; `path` is the .safetensors one."""
        save_pair(path, self.vectors, [self.table], self.table.schema)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read an index.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: a file is damaged, or the two do not belong together.
        """
        vectors = PackedEmbeddings.load(path)
        sidecar = sidecar_path(path)
        if not sidecar.is_file():
            raise FileNotFoundError(
                f"{path} has no {sidecar.name} beside it, which holds the texts; encode them again"
            )
        try:
            table = pq.read_table(sidecar)
            recorded = (pq.read_metadata(sidecar).metadata or {}).get(CHECKSUM_KEY.encode(), b"").decode()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{sidecar} is damaged or no Parquet file: {error}") from error
        if table.num_rows != len(vectors) or recorded != checksum(vectors):
            raise ValueError(
                f"{sidecar} ({table.num_rows} texts) does not belong to {path} ({len(vectors)} vectors); "
                "encode the texts again"
            )
        return cls.of_table(vectors, table)

    @property
    def columns(self) -> pa.Schema:
        """Of the table of rows: id, text and metadata."""
        return self.table.schema

    def ids(self) -> list[str]:
        """The ids, row by row."""
        return self.table["id"].to_pylist()

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[TextRow]:
        """The ids, texts and metadata of some rows."""
        rows = self.table.take(pa.array(numbers, type=pa.int64())).to_pylist()
        return [
            TextRow(
                row.pop("id"),
                row.pop("text"),
                {name: value for name, value in row.items() if value is not None},
            )
            for row in rows
        ]

    def batches(
        self, size: int, rows: NDArray[np.integer] | None = None
    ) -> Iterator[tuple[PackedEmbeddings, list[TextRow]]]:
        """Vectors and texts of some rows, `size` at a time; default all."""
        rows = np.arange(len(self)) if rows is None else rows
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield self.vectors[some], self.rows(some)

    def search(
        self, queries: NDArray[np.floating], top: int = 10, rows: NDArray[np.integer] | None = None
    ) -> list[list[Hit]]:
        """The `top` most similar texts of each query, best first; equal scores in the order of the index.

        Args:
            queries: floating point (q, d), or (d,) for one query. They are compared as they are with the
                stored codes (asymmetric).
            rows: search among these rows only, in ascending order; default all.

        Raises:
            ValueError: another dimension, NaN or infinity in a query, or `top` below 1.
        """
        return hits(self, self.best(np.atleast_2d(queries), top, rows))

    def best(
        self, queries: NDArray[np.floating], top: int = 10, among: NDArray[np.integer] | None = None
    ) -> Found:
        """See `VectorSearch.best`."""
        return self.searcher.best(queries, top, among)


def hits(index: TextIndex, found: Found) -> list[list[Hit]]:
    """The texts that were found for each query, best first."""
    texts = iter(index.rows(found.rows[found.rows != NOTHING]))
    return [
        [
            Hit((text := next(texts)).id, text.text, float(score), text.metadata)
            for row, score in zip(rows, scores, strict=True)
            if row != NOTHING
        ]
        for rows, scores in zip(found.rows, found.scores, strict=True)
    ]


def sidecar_path(path: str | os.PathLike[str]) -> Path:
    """Where the ids and texts of the index at `path` lie; ValueError when `path` is no .safetensors name."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"an index is written to a .safetensors file, not to {path}")
    return path.with_suffix(".parquet")


def checksum(vectors: PackedEmbeddings) -> str:
    """The sha256 of a set of embeddings: format, codes and scales."""
    digest = hashlib.sha256(f"{vectors.format.name} {vectors.format.dim} {len(vectors)}\n".encode())
    digest.update(vectors.codes.tobytes())
    if vectors.scales is not None:
        digest.update(vectors.scales.tobytes())
    return digest.hexdigest()


def save_pair(
    path: str | os.PathLike[str], vectors: PackedEmbeddings, tables: Iterable[pa.Table], schema: pa.Schema
) -> None:
    """Write both files of an index, or after an error none; its rows are those of `tables`, made to fit `schema`."""
    with atomic_path(sidecar_path(path)) as fresh:
        write_sidecar(fresh, tables, schema, {CHECKSUM_KEY: checksum(vectors)})
        vectors.save(path)
