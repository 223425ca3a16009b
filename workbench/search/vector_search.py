"""What every search over stored vectors answers, exact or approximate: which rows, and how similar they are."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bitembed_core.storage.formats import as_float_matrix

NOTHING = -1  # the row of a place that no vector was found for; its score is minus infinity


class Found(NamedTuple):
    """The best rows of each query, best first, int64 (q, k), and their cosine similarities float32 (q, k)."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def nothing(cls, queries: int) -> "Found":
        """No rows for any of so many queries."""
        return cls(np.empty((queries, 0), dtype=np.int64), np.empty((queries, 0), dtype=np.float32))

    def first(self, top: int) -> "Found":
        """The `top` best, places without a row last."""
        order_QK = np.argsort(self.rows == NOTHING, axis=1, kind="stable")[:, :top]
        return self.columns(order_QK)

    def columns(self, order_QK: NDArray[np.int64]) -> "Found":
        """The places of each query in another order, or some of them."""
        return Found(
            np.take_along_axis(self.rows, order_QK, axis=1), np.take_along_axis(self.scores, order_QK, axis=1)
        )


class VectorSearch(Protocol):
    """Vectors by row number that can be searched."""

    def __len__(self) -> int: ...

    @property
    def dimension(self) -> int: ...

    def best(
        self, queries: NDArray[np.floating], top: int = 10, among: NDArray[np.integer] | None = None
    ) -> Found:
        """The `top` most similar rows of each query; fewer where there are not as many.

        Args:
            queries: floating point (q, d); their lengths do not matter.
            among: search among these rows only, ascending; default all.

        Raises:
            ValueError: another dimension, NaN or infinity in a query, or `top` below 1.
        """


def checked_queries(queries: NDArray[np.floating], dim: int, top: int) -> NDArray[np.floating]:
    """Queries (q, dim) as they are; ValueError as `VectorSearch.best` has it."""
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    queries = as_float_matrix(queries, dim, "queries")
    if not np.isfinite(queries).all():
        raise ValueError("queries have NaN or infinite values")
    return queries


def joined(parts: list[Found]) -> Found:
    """What was found query by query as one: (q, k) for the largest k."""
    width = max((part.rows.shape[1] for part in parts), default=0)
    count = sum(len(part.rows) for part in parts)
    whole = Found(np.full((count, width), NOTHING), np.full((count, width), -np.inf, dtype=np.float32))
    start = 0
    for part in parts:
        place = slice(start, start + len(part.rows)), slice(part.rows.shape[1])
        whole.rows[place], whole.scores[place] = part
        start += len(part.rows)
    return whole
