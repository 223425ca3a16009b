"""Every storage format of one set of vectors against exact float32 search, fast enough to answer a moving control.

Each format is encoded and searched once, deeply enough for any oversampling. What a control asks for is put together from
that: rescoring looks up the candidates' scores by the wider codes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.storage import PRECISIONS
from workbench.search import ExactSearch, Found, Rescored
from workbench.search.exact import best_columns

EXACT = "float32"
RESCORERS = ("int4-fitted", "int8", EXACT)
MOST_OVERSAMPLING = 16
TOP = 10


@dataclass(frozen=True)
class Setting:
    """One way to store vectors and to search them.

    Args:
        precision: name of a storage format, shortened or not.
        float_queries: compare queries as they are; otherwise they are stored in the same format first (symmetric).
        rescore: a wider format that orders the best `top * oversampling`, one of RESCORERS; None for no second step. It does
            nothing to formats that are not narrower.
        oversampling: candidates per neighbour asked for, up to MOST_OVERSAMPLING.
    """

    precision: str
    float_queries: bool = True
    rescore: str | None = None
    oversampling: int = 4

    def __post_init__(self) -> None:
        if self.rescore is not None and self.rescore not in RESCORERS:
            raise ValueError(f"rescoring is done with {', '.join(RESCORERS)}, not with {self.rescore}")
        if not 1 <= self.oversampling <= MOST_OVERSAMPLING:
            raise ValueError(f"oversampling must be 1 to {MOST_OVERSAMPLING}, not {self.oversampling}")


@dataclass(frozen=True)
class Recall:
    """How many of float32's nearest neighbours one setting finds.

    Args:
        bytes_searched: per vector, of the codes that are compared with every query.
        bytes_beside: per vector, of the wider codes for rescoring, which may stay on disk; 0 without.
        recall: mean over the queries of the share of float32's `top` nearest that are found.
    """

    setting: Setting
    bytes_searched: int
    bytes_beside: int
    recall: float


class FormatExplorer:
    """Vectors in all formats.

    Args:
        documents_ND: float32 (n, d), not zero.
        queries_QD: float32 (q, d), with which recall is measured.
        top: neighbours of each query that are looked for; fewer where there are not as many vectors.

    Raises:
        ValueError: no vectors or queries, or different dimensions.
    """

    def __init__(
        self, documents_ND: NDArray[np.float32], queries_QD: NDArray[np.float32], top: int = TOP
    ) -> None:
        if not len(documents_ND) or not len(queries_QD) or documents_ND.shape[1] != queries_QD.shape[1]:
            raise ValueError(
                f"cannot look for {queries_QD.shape} queries among {documents_ND.shape} vectors: both are needed, in "
                "the same dimension"
            )
        self.documents_ND, self.queries_QD = unit(documents_ND), unit(queries_QD)
        self.top = min(top, len(documents_ND))
        self.neighbours_QK = self.exact(self.queries_QD).rows
        self._stored: dict[str, PackedEmbeddings] = {}
        self._searches: dict[tuple[str, bool], ExactSearch] = {}
        self._candidates: dict[tuple[str, bool], NDArray[np.int64]] = {}
        self._scores: dict[tuple[str, bool], NDArray[np.float32]] = {}

    @property
    def dimension(self) -> int:
        return int(self.documents_ND.shape[1])

    def exact(self, queries_QD: NDArray[np.float32]) -> Found:
        """The nearest neighbours in float32."""
        scores_QN = unit(queries_QD) @ self.documents_ND.T
        rows_QK = best_columns(scores_QN, self.top)
        return Found(rows_QK, np.take_along_axis(scores_QN, rows_QK, axis=1))

    def prepare(self, precisions: Sequence[str]) -> Iterator[str]:
        """Encode and search these formats, and the ones to rescore with, yielding each one's name when it is done."""
        for precision in precisions:
            for float_queries in (True, False):
                self.candidates(precision, float_queries)
            yield precision
        for precision in RESCORERS:
            for float_queries in (True, False):
                self.scores(precision, float_queries)
            yield f"rescoring with {precision}"

    def stored(self, precision: str) -> PackedEmbeddings:
        """The vectors in a format, encoded when first asked for."""
        if precision not in self._stored:
            self._stored[precision] = StorageFormat(precision, self.dimension).encode(self.documents_ND)
        return self._stored[precision]

    def search_in(self, precision: str, float_queries: bool) -> ExactSearch:
        """Exact search over the stored vectors."""
        key = precision, float_queries
        if key not in self._searches:
            self._searches[key] = ExactSearch(self.stored(precision), symmetric=not float_queries)
        return self._searches[key]

    def candidates(self, precision: str, float_queries: bool) -> NDArray[np.int64]:
        """The best rows of each query (q, top * MOST_OVERSAMPLING), or all that there are."""
        key = precision, float_queries
        if key not in self._candidates:
            search = self.search_in(precision, float_queries)
            self._candidates[key] = search.best(self.queries_QD, self.top * MOST_OVERSAMPLING).rows
        return self._candidates[key]

    def scores(self, precision: str, float_queries: bool) -> NDArray[np.float32]:
        """The score of every query with every vector in a format to rescore with: (q, n)."""
        key = precision, float_queries
        if key not in self._scores:
            stored = self.stored(precision)
            queries = self.queries_QD if float_queries else stored.format.encode(self.queries_QD)
            self._scores[key] = stored.scores(queries)
        return self._scores[key]

    def found(self, setting: Setting) -> NDArray[np.int64]:
        """The rows (q, top) that a setting finds, best first; what it needs and was not prepared is computed first."""
        candidates_QC = self.candidates(setting.precision, setting.float_queries)
        if not self.is_rescored(setting):
            return candidates_QC[:, : self.top]
        assert setting.rescore is not None
        candidates_QC = np.sort(candidates_QC[:, : self.top * setting.oversampling], axis=1)
        scores_QN = self.scores(setting.rescore, setting.float_queries)
        scores_QC = np.take_along_axis(scores_QN, candidates_QC, axis=1)
        order_QK = np.argsort(-scores_QC, axis=1, kind="stable")[:, : self.top]
        return np.take_along_axis(candidates_QC, order_QK, axis=1)

    def is_rescored(self, setting: Setting) -> bool:
        """Whether the setting asks for a second step, with a format that is wider than the first."""
        if setting.rescore is None:
            return False
        first, second = (StorageFormat(name, self.dimension) for name in (setting.precision, setting.rescore))
        return second.bytes_per_vector > first.bytes_per_vector

    def recall(self, setting: Setting) -> Recall:
        """How many of float32's neighbours the setting finds."""
        hits_QK = (self.found(setting)[:, :, None] == self.neighbours_QK[:, None, :]).any(axis=2)
        size, beside = StorageFormat(setting.precision, self.dimension).bytes_per_vector, 0
        if self.is_rescored(setting) and setting.rescore is not None:
            beside = StorageFormat(setting.rescore, self.dimension).bytes_per_vector
        return Recall(setting, size, beside, float(hits_QK.mean()))

    def answer(self, query_D: NDArray[np.float32], setting: Setting) -> Found:
        """The neighbours (1, top) of a new query as a search by this setting returns them."""
        if setting.precision == EXACT:
            return self.exact(query_D[None])
        first = self.search_in(setting.precision, setting.float_queries)
        if not self.is_rescored(setting):
            return first.best(query_D[None], self.top)
        assert setting.rescore is not None
        second = self.search_in(setting.rescore, setting.float_queries)
        return Rescored(first, second, setting.oversampling).best(query_D[None], self.top)


def unit(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1."""
    x_ND = np.ascontiguousarray(x_ND, dtype=np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def format_names(dimension: int, shares: Sequence[int] = (1, 2, 4)) -> list[str]:
    """Every precision at the full dimension, and shortened to a half and a quarter of it; float32 itself is left out."""
    names = []
    for share in shares:
        suffix = "" if share == 1 else f"-{dimension // share}d"
        names += [precision + suffix for precision in PRECISIONS]
    return [name for name in names if name != EXACT]


def cheapest(recalls: Sequence[Recall], wanted: float) -> Recall | None:
    """The setting that searches the fewest bytes and still finds the share `wanted`; None if none does."""
    enough = [row for row in recalls if row.recall >= wanted]
    return min(enough, key=lambda row: (row.bytes_searched, row.bytes_beside, -row.recall), default=None)


def at_settings(precisions: Iterable[str], like: Setting) -> list[Setting]:
    """`like`, for every one of the formats."""
    return [replace(like, precision=precision) for precision in precisions]
