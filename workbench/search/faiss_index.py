"""faiss behind the interface of `approximate`: graphs and inverted files over scalar-quantized or one-bit vectors."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from workbench.search.vector_search import Found

LEAST_VISITED = 64  # of a graph, whatever `top` is


class FaissIndex:
    """An index as faiss builds it from a factory string.

    `HNSW32,SQ8`, `IVF256,SQ8`, `SQ4` and the like compare inner products; `BHNSW32`, `BIVF256` and other names that begin
    with B compare signs by Hamming distance.
    """

    suffix = ".faiss"
    default = "HNSW32,SQ8"

    def __init__(self, native: Any, dim: int) -> None:
        self._native, self._dim = native, dim
        self._is_binary = isinstance(native, _faiss().IndexBinary)
        self._look_closely()

    @classmethod
    def build(
        cls, kind: str, dim: int, sample_SD: NDArray[np.float32], chunks: Iterable[NDArray[np.float32]]
    ) -> Self:
        """An index over the rows of `chunks`, fitted to a sample of them; ValueError for what faiss refuses."""
        faiss = _faiss()
        try:
            if kind.startswith("B"):
                native = faiss.index_binary_factory(8 * math.ceil(dim / 8), kind)
            else:
                native = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
            index = cls(native, dim)
            native.train(index._input(sample_SD))
            for chunk_CD in chunks:
                native.add(index._input(chunk_CD))
        except RuntimeError as error:
            raise ValueError(
                f"faiss cannot build {kind!r} from {len(sample_SD)} vectors of {dim} dimensions: {_reason(error)}"
            ) from error
        return index

    @classmethod
    def load(cls, path: Path, kind: str, dim: int) -> Self:
        """Read what `save` wrote; ValueError for a file of another version of faiss."""
        faiss = _faiss()
        try:
            read = faiss.read_index_binary if kind.startswith("B") else faiss.read_index
            return cls(read(str(path)), dim)
        except RuntimeError as error:
            raise ValueError(f"faiss cannot read {path}: {_reason(error)}") from error

    def save(self, path: Path) -> None:
        """Write faiss's own file."""
        faiss = _faiss()
        (faiss.write_index_binary if self._is_binary else faiss.write_index)(self._native, str(path))

    def nearest(self, queries_QD: NDArray[np.float32], count: int) -> Found:
        """About the `count` nearest rows of unit queries."""
        values_QK, rows_QK = self._native.search(self._input(queries_QD), count)
        scores_QK = values_QK.astype(np.float32)
        if self._is_binary:
            scores_QK = 1 - 2 * scores_QK / self._dim
        return Found(rows_QK, scores_QK)

    def _input(self, x_ND: NDArray[np.float32]) -> NDArray[Any]:
        return np.packbits(x_ND >= 0, axis=1) if self._is_binary else np.ascontiguousarray(x_ND)

    def _look_closely(self) -> None:
        """Visit more of a graph, and more lists of an inverted file, than faiss does by itself."""
        faiss = _faiss()
        native = self._native
        if not self._is_binary:
            native = faiss.downcast_index(native)
        if hasattr(native, "hnsw"):
            native.hnsw.efSearch = max(native.hnsw.efSearch, LEAST_VISITED)
        if hasattr(native, "nprobe"):
            native.nprobe = max(native.nprobe, math.isqrt(native.nlist))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ValueError("faiss is not installed; get it with `pip install faiss-cpu`") from error
    return faiss


def _reason(error: RuntimeError) -> str:
    """What faiss says, without the place in its sources."""
    return str(error).rpartition("Error: ")[2]
