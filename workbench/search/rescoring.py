"""Two searches in a row: a narrow or approximate one proposes rows, and an exact one over wider codes scores them."""

import numpy as np
from numpy.typing import NDArray

from workbench.search.vector_search import NOTHING, Found, VectorSearch, joined

OVERSAMPLING = 4


class Rescored:
    """`first` proposes `top * oversampling` rows, `second` scores them; rows are those of `first`.

    There are always as many rows as were asked for, or as there are: where `first` proposes too few, `second` searches
    alone.

    Args:
        first: fast; what it scores does not matter.
        second: the same vectors, exactly searched.
        oversampling: proposals per row that is asked for.
        rows_of_second: for each row of `first` that of the same vector in `second`; default the same number.

    Raises:
        ValueError: the two hold different numbers or dimensions of vectors, or `oversampling` is below 1.
    """

    def __init__(
        self,
        first: VectorSearch,
        second: VectorSearch,
        oversampling: int = OVERSAMPLING,
        rows_of_second: NDArray[np.int64] | None = None,
    ) -> None:
        if oversampling < 1:
            raise ValueError(f"oversampling must be at least 1, got {oversampling}")
        if len(first) != len(second) or first.dimension != second.dimension:
            raise ValueError(
                f"{len(first)} vectors of {first.dimension} dimensions cannot be rescored with {len(second)} of "
                f"{second.dimension}: both must hold the same texts, encoded by the same model"
            )
        self.first, self.second, self.oversampling = first, second, oversampling
        self._rows_of_second = np.arange(len(first)) if rows_of_second is None else rows_of_second
        self._rows_of_first = np.argsort(self._rows_of_second)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def dimension(self) -> int:
        return self.first.dimension

    def best(
        self, queries: NDArray[np.floating], top: int = 10, among: NDArray[np.integer] | None = None
    ) -> Found:
        """See `VectorSearch.best`; the scores are those of `second`."""
        there = len(self) if among is None else len(among)
        if there <= top * self.oversampling:
            return self._exactly(queries, top, among)
        proposed = self.first.best(queries, top * self.oversampling, among)
        return self.rescored(queries, proposed.rows, top, among)

    def rescored(
        self,
        queries: NDArray[np.floating],
        rows_QC: NDArray[np.int64],
        top: int,
        among: NDArray[np.integer] | None = None,
    ) -> Found:
        """The `top` best of each query's own rows (q, c); of `among` where fewer than `top` rows were proposed."""
        there = len(self) if among is None else len(among)
        parts = []
        for query_D, rows_C in zip(queries, rows_QC, strict=True):
            proposed = np.sort(rows_C[rows_C != NOTHING])
            enough = len(proposed) >= min(top, there)
            parts.append(self._exactly(query_D[None], top, proposed if enough else among))
        return joined(parts)

    def _exactly(self, queries: NDArray[np.floating], top: int, among: NDArray[np.integer] | None) -> Found:
        rows = None if among is None else np.sort(self._rows_of_second[among])
        found = self.second.best(queries, top, rows)
        return Found(np.where(found.rows == NOTHING, NOTHING, self._rows_of_first[found.rows]), found.scores)


def same_texts(narrow_ids: list[str], wide_ids: list[str]) -> NDArray[np.int64] | None:
    """For each of `narrow_ids` its row among `wide_ids`; None when both are in the same order.

    Raises:
        ValueError: an id that only one of them has.
    """
    if narrow_ids == wide_ids:
        return None
    row_of = {id_: row for row, id_ in enumerate(wide_ids)}
    only = next((id_ for id_ in narrow_ids if id_ not in row_of), None)
    if only is None and len(wide_ids) != len(narrow_ids):
        only = next(iter(row_of.keys() - set(narrow_ids)))
    if only is not None:
        raise ValueError(
            f"the index ({len(narrow_ids)} texts) and the one to rescore with ({len(wide_ids)} texts) do not hold "
            f"the same texts: only one of them has the id {only!r}; encode both from the same file"
        )
    return np.array([row_of[id_] for id_ in narrow_ids], dtype=np.int64)
