"""mteb's retrieval scored by the search that users run: documents in packed codes, and an exact search over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from workbench.search import ExactSearch, Found, Rescored
from workbench.search.rescoring import OVERSAMPLING

HITS = 10  # that a user asks for: rescoring looks at the best HITS * oversampling, though mteb ranks up to a thousand


class PackedBackend:
    """An `IndexEncoderSearchProtocol` of mteb: the model's own vectors come in, ranked documents come out.

    Args:
        form: how documents are stored.
        float_queries: compare queries as they are (asymmetric); by default they are stored too (symmetric).
        rescore: a wider format of the same documents that decides the order of the best `HITS * oversampling`. The others
            keep their places behind them.
        oversampling: documents that are rescored for each hit.
    """

    def __init__(
        self,
        form: StorageFormat,
        float_queries: bool = False,
        rescore: StorageFormat | None = None,
        oversampling: int = OVERSAMPLING,
    ) -> None:
        self.format, self.float_queries = form, float_queries
        self.rescore, self.oversampling = rescore, oversampling
        self.clear()

    def clear(self) -> None:
        """Forget all documents."""
        self._ids: list[str] = []
        self._narrow: list[PackedEmbeddings] = []
        self._wide: list[PackedEmbeddings] = []

    def add_documents(self, embeddings: NDArray[np.floating], idxs: Sequence[str]) -> None:
        """Store vectors (n, d) and their ids."""
        self._ids += idxs
        self._narrow.append(self.format.encode(embeddings))
        if self.rescore is not None:
            self._wide.append(self.rescore.encode(embeddings))

    def search(
        self,
        embeddings: NDArray[np.floating],
        top_k: int,
        similarity_fn: Any = None,
        top_ranked: dict[str, list[str]] | None = None,
        query_idx_to_id: dict[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Scores and documents of each query's best `top_k`.

        Args:
            embeddings: queries (q, d).
            similarity_fn: of mteb's protocol, and of no use here: codes are compared as packed search does.
            top_ranked: by query id, the documents to choose from; documents are numbered within them, or else as added.
            query_idx_to_id: the ids of the queries.
        """
        narrow = self._stored(self._narrow)
        rescored = None
        if self.rescore is not None:
            rescored = Rescored(narrow, self._stored(self._wide), self.oversampling)
        if top_ranked is None or query_idx_to_id is None:
            found = self._ranking(embeddings, top_k, None, narrow, rescored)
            return found.scores.tolist(), found.rows.tolist()
        row_of = {id_: row for row, id_ in enumerate(self._ids)}
        scores, numbers = [], []
        for number, query_D in enumerate(embeddings):
            rows = np.array([row_of[id_] for id_ in top_ranked[query_idx_to_id[number]]], dtype=np.int64)
            order = np.argsort(rows)
            found = self._ranking(query_D[None], top_k, rows[order], narrow, rescored)
            scores += found.scores.tolist()
            numbers += order[np.searchsorted(rows, found.rows, sorter=order)].tolist()
        return scores, numbers

    def _stored(self, parts: list[PackedEmbeddings]) -> ExactSearch:
        return ExactSearch(PackedEmbeddings.concatenate(parts), symmetric=not self.float_queries)

    def _ranking(
        self,
        queries_QD: NDArray[np.floating],
        top: int,
        among: NDArray[np.int64] | None,
        narrow: ExactSearch,
        rescored: Rescored | None,
    ) -> Found:
        if rescored is None:
            return narrow.best(queries_QD, top, among)
        deep = HITS * self.oversampling
        found = narrow.best(queries_QD, max(top, deep), among)
        head = rescored.rescored(queries_QD, found.rows[:, :deep], deep, among)
        tail_QT = found.scores[:, deep:]
        if tail_QT.shape[1]:
            tail_QT = tail_QT - tail_QT[:, :1] + head.scores[:, -1:] - 1  # its order, behind the head
        rows_QK = np.hstack([head.rows, found.rows[:, deep:]])
        return Found(rows_QK[:, :top], np.hstack([head.scores, tail_QT])[:, :top])
