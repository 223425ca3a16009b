"""An index of packed embeddings with their ids and texts."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.files import atomic_path
from workbench.search.exact import ExactSearch
from workbench.search.text_files import TextRow
from workbench.search.vector_search import NOTHING, Found, VectorSearch

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
CHECKSUM_KEY = "bitembed.vectors_sha256"


class Hit(NamedTuple):
    """A stored text and its cosine similarity to the query."""

    id: str
    text: str
    score: float


class TextIndex(VectorSearch, Protocol):
    """Vectors that can be searched, and the texts they are of."""

    def ids(self) -> list[str]: ...

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> Iterable[TextRow]: ...


class PackedIndex:
    """Embeddings of n texts in packed codes, the texts and their ids.

    It is searched exactly, unless `searcher` is set to something else over the same vectors.

    On disk it is two files: `NAME.safetensors` (the embeddings) and `NAME.parquet` beside it (ids and texts,
    and the checksum of the embeddings they belong to).
    """

    def __init__(self, vectors: PackedEmbeddings, ids: Sequence[str], texts: Sequence[str]) -> None:
        if not len(vectors) == len(ids) == len(texts):
            raise ValueError(
                f"{len(vectors)} vectors, {len(ids)} ids and {len(texts)} texts do not belong together"
            )
        self.vectors = vectors
        self.searcher: VectorSearch = ExactSearch(vectors)
        self._rows = pa.table({"id": list(ids), "text": list(texts)}, schema=SCHEMA)

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
        with rows_file(path) as rows:
            rows.write_table(self._rows)
            seal(rows, self.vectors, path)

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
        index = cls.__new__(cls)
        index.vectors, index.searcher = vectors, ExactSearch(vectors)
        index._rows = table.select(SCHEMA.names)
        return index

    def ids(self) -> list[str]:
        """The ids, row by row."""
        return self._rows["id"].to_pylist()

    def rows(self, numbers: Sequence[int] | NDArray[np.integer]) -> list[TextRow]:
        """The ids and texts of some rows."""
        table = self._rows.take(pa.array(numbers, type=pa.int64()))
        return [TextRow(*row) for row in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)]

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
            Hit((text := next(texts)).id, text.text, float(score))
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


@contextmanager
def rows_file(path: str | os.PathLike[str]) -> Iterator[pq.ParquetWriter]:
    """A writer for the ids and texts of the index at `path`; `seal` completes it, an error leaves nothing."""
    with (
        atomic_path(sidecar_path(path)) as fresh,
        pq.ParquetWriter(fresh, SCHEMA, compression="zstd") as writer,
    ):
        yield writer


def seal(rows: pq.ParquetWriter, vectors: PackedEmbeddings, path: str | os.PathLike[str]) -> None:
    """Write the embeddings of an index and record in its rows which embeddings they belong to."""
    rows.add_key_value_metadata({CHECKSUM_KEY: checksum(vectors)})
    vectors.save(path)
