"""usearch behind the interface of `approximate`: a graph over half-precision, int8 or one-bit vectors."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bitembed_core.ops import library
from workbench.search.vector_search import NOTHING, Found

KINDS = {"f16": "cos", "i8": "cos", "b1": "hamming"}  # how the graph stores a vector: how it compares two


class UsearchIndex:
    """A graph over `f16` or `i8` vectors, compared by cosine, or over their signs, `b1`, by Hamming distance.

    Threads add vectors as they come: built on several, a graph is a little different every time.
    """

    suffix = ".usearch"
    default = "i8"

    def __init__(self, native: Any, kind: str, dim: int) -> None:
        self._native, self._kind, self._dim = native, kind, dim

    @classmethod
    def build(
        cls, kind: str, dim: int, sample_SD: NDArray[np.float32], chunks: Iterable[NDArray[np.float32]]
    ) -> Self:
        """A graph over the rows of `chunks`; the sample is not needed. ValueError for an unknown kind."""
        if kind not in KINDS:
            raise ValueError(f"usearch has no kind {kind!r} here; choose one of {', '.join(KINDS)}")
        width = 8 * math.ceil(dim / 8) if kind == "b1" else dim
        native = _usearch().Index(ndim=width, metric=KINDS[kind], dtype=kind)
        index = cls(native, kind, dim)
        for chunk_CD in chunks:
            keys = np.arange(len(native), len(native) + len(chunk_CD))
            native.add(keys, index._input(chunk_CD), threads=library.threads())
        return index

    @classmethod
    def load(cls, path: Path, kind: str, dim: int) -> Self:
        """Read what `save` wrote; ValueError for a file of another version of usearch."""
        try:
            native = _usearch().Index.restore(str(path))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"usearch cannot read {path}: {error}") from error
        if native is None:
            raise ValueError(f"usearch cannot read {path}: it is no usearch index")
        return cls(native, kind, dim)

    def save(self, path: Path) -> None:
        """Write usearch's own file."""
        self._native.save(str(path))

    def nearest(self, queries_QD: NDArray[np.float32], count: int) -> Found:
        """About the `count` nearest rows of unit queries."""
        matches = self._native.search(self._input(queries_QD), count, threads=library.threads())
        shape = len(queries_QD), -1  # one query has a flat answer
        rows_QK = np.asarray(matches.keys).astype(np.int64).reshape(shape)
        distances_QK = np.asarray(matches.distances, dtype=np.float32).reshape(shape)
        scores_QK = 1 - (2 * distances_QK / self._dim if self._kind == "b1" else distances_QK)
        counts_Q1 = np.asarray(getattr(matches, "counts", rows_QK.shape[1])).reshape(-1, 1)
        missing_QK = np.arange(rows_QK.shape[1]) >= counts_Q1
        return Found(np.where(missing_QK, NOTHING, rows_QK), np.where(missing_QK, -np.inf, scores_QK))

    def _input(self, x_ND: NDArray[np.float32]) -> NDArray[Any]:
        if self._kind == "b1":
            return np.packbits(x_ND >= 0, axis=1)
        if (
            self._kind == "i8"
        ):  # codes as wide as each vector allows: usearch would round unit vectors to few levels
            largest_N1 = np.abs(x_ND).max(axis=1, keepdims=True)
            return np.rint(127 * x_ND / np.where(largest_N1 > 0, largest_N1, 1)).astype(np.int8)
        return np.ascontiguousarray(x_ND)


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        raise ValueError("usearch is not installed; get it with `pip install usearch`") from error
    return usearch.index
