"""Exact search: every query is compared with every stored vector, as it is stored."""

import numpy as np
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings
from bitembed_core.ops.packed_scores import PackedScores
from workbench.search.vector_search import Found, checked_queries

SCORES_AT_ONCE = 2**22  # similarities held in memory, 16 MiB


class ExactSearch:
    """Packed vectors on the CPU, natively where that was built; memory does not grow with queries times vectors.

    Args:
        vectors: in any format.
        symmetric: store a query in the vectors' format too before it is compared; it stays as it is otherwise.
    """

    def __init__(self, vectors: PackedEmbeddings, symmetric: bool = False) -> None:
        self.vectors, self.symmetric = vectors, symmetric
        self._packed: PackedScores | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return self.vectors.format.dim

    def best(
        self, queries: NDArray[np.floating], top: int = 10, among: NDArray[np.integer] | None = None
    ) -> Found:
        """See `VectorSearch.best`; equal scores come in the order of the rows."""
        queries_QD = checked_queries(queries, self.dimension, top)
        if self.symmetric:
            queries_QD = self.vectors.format.encode(queries_QD).decode()
        if self.vectors.format.has_scale:
            if self._packed is None:
                self._packed = PackedScores(self.vectors, "cpu")
            best = self._packed.best(queries_QD, top, rows=among)
            return Found(best.rows.numpy(), best.scores.numpy())
        found = self._best_of_floats(queries_QD, top, self.vectors if among is None else self.vectors[among])
        return found if among is None else Found(np.asarray(among)[found.rows], found.scores)

    def _best_of_floats(self, queries_QD: NDArray[np.floating], top: int, vectors: PackedEmbeddings) -> Found:
        best = Found.nothing(len(queries_QD))
        step = max(1, SCORES_AT_ONCE // max(1, len(queries_QD)))
        for start in range(0, len(vectors), step):
            scores_QC = vectors[start : start + step].scores(queries_QD)
            columns_QK = best_columns(scores_QC, top)
            rows_QK = np.hstack([best.rows, start + columns_QK])
            scores_QK = np.hstack([best.scores, np.take_along_axis(scores_QC, columns_QK, axis=1)])
            best = Found(rows_QK, scores_QK).columns(best_columns(scores_QK, top))
        return best


def best_columns(scores_QC: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """The columns of the `top` largest values of each line, best first, the leftmost of equals: (q, top)."""
    columns = [_best_of_line(line, top) for line in scores_QC]
    return np.stack(columns) if columns else np.empty((0, min(top, scores_QC.shape[1])), dtype=np.int64)


def _best_of_line(scores: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    candidates = np.arange(len(scores))
    if top < len(scores):
        candidates = np.flatnonzero(scores >= np.partition(scores, -top)[-top])
    return candidates[np.argsort(-scores[candidates], kind="stable")[:top]]
