"""Approximate search over stored vectors: an index of faiss or usearch beside them, in a file of its own.

`NAME.faiss` or `NAME.usearch` is the library's native file; `NAME.faiss.json` beside it says what it was built from: engine,
structure, format, dimension and number of the vectors, their checksum and that of the native file. It is written last, so
files that do not fit together are of an interrupted or a stale build, and refused.

The index proposes rows and the packed codes score them (`Rescored`), so scores are those of exact search.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings
from bitembed_core.files import atomic_path, read_json, write_json
from bitembed_core.storage.packed import unit_rows
from workbench.search.exact import ExactSearch
from workbench.search.faiss_index import FaissIndex
from workbench.search.index import checksum
from workbench.search.rescoring import OVERSAMPLING, Rescored
from workbench.search.usearch_index import UsearchIndex
from workbench.search.vector_search import NOTHING, Found, checked_queries

KIND, VERSION = "bitembed.approximate_index", 1
MOST_SAMPLED = 2**16  # vectors that an index is fitted to
ROWS_AT_ONCE = 2**14  # expanded to float32 while it is built
MOST_OVERFETCH = 16  # rows fetched for one that a filter leaves


class Engine(Protocol):
    """A library's index over unit vectors."""

    suffix: str
    default: str

    @classmethod
    def build(
        cls, kind: str, dim: int, sample_SD: NDArray[np.float32], chunks: Iterable[NDArray[np.float32]]
    ) -> Self: ...

    @classmethod
    def load(cls, path: Path, kind: str, dim: int) -> Self: ...

    def save(self, path: Path) -> None: ...

    def nearest(self, queries_QD: NDArray[np.float32], count: int) -> Found: ...


ENGINES: dict[str, type[Engine]] = {"faiss": FaissIndex, "usearch": UsearchIndex}
SUFFIXES = tuple(suffix for engine in ENGINES.values() for suffix in (engine.suffix, f"{engine.suffix}.json"))


class ApproximateSearch:
    """A `VectorSearch` that may miss rows, and finds fewer than were asked for where a filter leaves few.

    Its scores are cosines as far as the library's own codes give them.
    """

    def __init__(self, native: Engine, name: str, vectors: PackedEmbeddings) -> None:
        self._native, self.name, self._vectors = native, name, vectors

    @classmethod
    def build(cls, vectors: PackedEmbeddings, name: str) -> Self:
        """Build an index over stored vectors.

        Args:
            vectors: in any format; a kind with more bits than they have gains nothing.
            name: `faiss`, `usearch`, or with a kind: `faiss:IVF256,SQ8`, `usearch:b1`.

        Raises:
            ValueError: an unknown or uninstalled engine, a kind that it refuses, or no vectors.
        """
        engine, kind = engine_and_kind(name)
        if not len(vectors):
            raise ValueError("there are no vectors to build an approximate index from")
        sampled = np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_SAMPLED)).astype(np.int64)
        sample_SD = directions(vectors[sampled])
        native = ENGINES[engine].build(kind, vectors.format.kept, sample_SD, _chunks(vectors))
        return cls(native, f"{engine}:{kind}", vectors)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        return self._vectors.format.dim

    def best(
        self, queries: NDArray[np.floating], top: int = 10, among: NDArray[np.integer] | None = None
    ) -> Found:
        """See `VectorSearch.best`. What `among` leaves out is dropped from a longer list."""
        queries = checked_queries(queries, self.dimension, top)
        queries_QD = unit_rows(queries[:, : self._vectors.format.kept]).astype(np.float32)
        if among is None:
            return self._native.nearest(queries_QD, min(top, len(self)))
        overfetch = min(len(self) / max(1, len(among)), MOST_OVERFETCH)
        found = self._native.nearest(queries_QD, min(len(self), math.ceil(top * overfetch)))
        wanted_N = np.zeros(len(self), dtype=bool)
        wanted_N[among] = True
        kept_QC = (found.rows != NOTHING) & wanted_N[found.rows]
        return Found(np.where(kept_QC, found.rows, NOTHING), np.where(kept_QC, found.scores, -np.inf)).first(
            top
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the native file and its description beside the vectors at `path`, a .safetensors file."""
        file, description = _files(path, self.name)
        with atomic_path(file) as fresh:
            self._native.save(fresh)
        write_json(description, _origin(self.name, self._vectors) | {"xxh3_128": _digest(file)})

    @classmethod
    def open(cls, path: str | os.PathLike[str], vectors: PackedEmbeddings, name: str) -> Self:
        """Read what `save` wrote beside the vectors at `path`.

        Raises:
            FileNotFoundError: there is no such index.
            ValueError: it is damaged, of another kind than `name`, or was built over other vectors.
        """
        engine, kind = engine_and_kind(name)
        file, description = _files(path, name)
        for needed in (file, description):
            if not needed.is_file():
                raise FileNotFoundError(f"there is no {needed}")
        expected = _origin(name, vectors)
        found = read_json(description)
        wrong = [key for key in expected if found.get(key) != expected[key]]
        if wrong:
            raise ValueError(
                f"{description} is of another index: {wrong[0]} is {found.get(wrong[0])!r}, not "
                f"{expected[wrong[0]]!r}; delete it and {file.name}, and the index is built again"
            )
        if found.get("xxh3_128") != _digest(file):
            raise ValueError(
                f"{file} is damaged or does not belong to {description.name}; delete both, and the index is built again"
            )
        return cls(ENGINES[engine].load(file, kind, vectors.format.kept), f"{engine}:{kind}", vectors)


def approximate_search(
    path: str | os.PathLike[str], vectors: PackedEmbeddings, name: str, oversampling: int = OVERSAMPLING
) -> Rescored:
    """Approximate search over the vectors at `path`, exactly scored; the index is built and saved where there is none yet.

    Raises:
        ValueError: as for `ApproximateSearch.open` and `build`.
    """
    try:
        index = ApproximateSearch.open(path, vectors, name)
    except FileNotFoundError:
        index = ApproximateSearch.build(vectors, name)
        index.save(path)
    return Rescored(index, ExactSearch(vectors), oversampling)


def engine_and_kind(name: str) -> tuple[str, str]:
    """The two parts of `ENGINE:KIND`; ValueError for an unknown engine."""
    engine, _, kind = name.partition(":")
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r} for approximate search; choose {' or '.join(ENGINES)}")
    return engine, kind or ENGINES[engine].default


def directions(vectors: PackedEmbeddings) -> NDArray[np.float32]:
    """Float32 (n, kept): their inner products with unit queries are the scores of exact search."""
    scheme = vectors.format.scheme
    values_ND = vectors.decode()[:, : vectors.format.kept]
    return values_ND if scheme is not None and scheme.fitted else unit_rows(values_ND).astype(np.float32)


def _origin(name: str, vectors: PackedEmbeddings) -> dict[str, Any]:
    """What an index is built from."""
    engine, kind = engine_and_kind(name)
    return {
        "kind": KIND,
        "version": VERSION,
        "engine": engine,
        "structure": kind,
        "format": vectors.format.name,
        "dim": vectors.format.dim,
        "rows": len(vectors),
        "vectors_sha256": checksum(vectors),
    }


def _chunks(vectors: PackedEmbeddings) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        yield directions(vectors[start : start + ROWS_AT_ONCE])


def _files(path: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """The native file and its description beside the vectors at `path`."""
    file = Path(path).with_suffix(ENGINES[engine_and_kind(name)[0]].suffix)
    return file, file.with_name(f"{file.name}.json")


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, xxhash.xxh3_128).hexdigest()
