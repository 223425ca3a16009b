"""Search on the CPU through the native library: int8 queries, no scores kept but the best."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.packed_scores.reference import Documents
from bitembed_core.quantizers import EPS

MOST_COMPONENTS = 1 << 15  # sums stay in 32 bits
VALUES_AT_ONCE = 1 << 24  # of candidates that are compared again
LEVELS_AT_ONCE = 1 << 24  # that are looked up
DENSE = 64  # with fewer documents per candidate, comparing all is faster than taking the candidates out
ROUNDING = 2e-6  # of a cosine in float32


def best_of_codes(queries_QD: Tensor, documents: Documents, k: int) -> tuple[Tensor, Tensor]:
    """The best min(k, n) documents of queries int8 (q, dim): `reference.packed_scores` times the query's length, and rows.

    Raises:
        MemoryError: not enough memory for k candidates a query.
    """
    if documents.trellis is not None:
        return _best_of_parts(queries_QD, documents, k)
    queries_QD = queries_QD.contiguous()  # bound to a name, so that it lives until the call returns
    k = min(k, len(documents.codes_NB))
    scores_QK = torch.empty(len(queries_QD), k)
    rows_QK = torch.empty(len(queries_QD), k, dtype=torch.int64)
    if scores_QK.numel():
        library.native().bitembed_search(
            library.pointer(queries_QD),
            len(queries_QD),
            library.pointer(documents.codes_NB),
            library.pointer(documents.weight_N),
            len(documents.codes_NB),
            queries_QD.shape[1],
            documents.bits,
            documents.top,
            k,
            library.pointer(scores_QK),
            library.pointer(rows_QK),
            library.threads(),
        )
    return scores_QK, rows_QK


def _best_of_parts(queries_QD: Tensor, documents: Documents, k: int) -> tuple[Tensor, Tensor]:
    """`best_of_codes`, with the codes of one part of the documents after the other looked up."""
    step = max(1, LEVELS_AT_ONCE // documents.kept)
    scores, rows = [], []
    for start in range(0, max(1, len(documents.codes_NB)), step):
        found = best_of_codes(queries_QD, documents.part(slice(start, start + step)).looked_up(), k)
        scores.append(found[0])
        rows.append(found[1] + start)
    # Equal scores stay in the order of the documents.
    order = torch.cat(scores, dim=1).sort(dim=1, descending=True, stable=True)
    return order.values[:, :k], torch.cat(rows, dim=1).gather(1, order.indices[:, :k])


def best_of_vectors(queries_QD: Tensor, documents: Documents, k: int) -> tuple[Tensor, Tensor]:
    """The same for queries in float32, exactly, and for their directions.

    Candidates are found with the queries rounded to int8 and compared again as they are. A score changes by no more than the
    length of what rounding took from the unit query, times that of the longest document; where that leaves doubt about the k
    best, more candidates are taken.
    """
    unit_QD, int8_QD, scale_Q1, lost_Q = _rounded(queries_QD.numpy())
    lost_Q = lost_Q * documents.longest + ROUNDING
    n = len(documents.codes_NB)
    k = min(k, n)
    best_scores = torch.zeros(len(unit_QD), k)
    best_rows = torch.zeros(len(unit_QD), k, dtype=torch.int64)
    open_Q, candidates = torch.arange(len(unit_QD)), min(n, max(4 * k, k + 64))
    while len(open_Q) and k:
        found, rows = best_of_codes(int8_QD[open_Q], documents, candidates)
        scores = _compared_again(unit_QD[open_Q], rows, documents)
        by_row = rows.argsort(dim=1)  # so that equal scores keep the order of the documents
        scores, rows = scores.gather(1, by_row), rows.gather(1, by_row)
        order = scores.sort(dim=1, descending=True, stable=True)
        best_scores[open_Q] = order.values[:, :k]
        best_rows[open_Q] = rows.gather(1, order.indices[:, :k])
        left_out_Q = found[:, -1] * scale_Q1[open_Q, 0] + lost_Q[open_Q]
        if candidates >= n:
            break
        open_Q = open_Q[order.values[:, k - 1] < left_out_Q]
        candidates = min(n, 8 * candidates)
    return best_scores, best_rows


def int8_codes(queries_QD: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`quantize_activation` in numpy: torch's threads would go on spinning for a while, beside those of the search."""
    largest_Q1 = np.abs(queries_QD).max(axis=1, keepdims=True, initial=0)
    codes_QD = np.rint(queries_QD * np.float32(127) / (largest_Q1 + np.float32(EPS)))
    return codes_QD.astype(np.int8), largest_Q1 / np.float32(127)


def _rounded(queries_QD: NDArray[np.float32]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit queries, their int8 codes and scales (q, 1), and the length (q,) of what rounding takes."""
    lengths_Q1 = np.sqrt(np.einsum("qd,qd->q", queries_QD, queries_QD))[:, None]
    unit_QD = (queries_QD / np.where(lengths_Q1 > 0, lengths_Q1, 1)).astype(np.float32, copy=False)
    codes_QD, scale_Q1 = int8_codes(unit_QD)
    lost_QD = unit_QD - codes_QD * scale_Q1
    lost_Q = np.sqrt(np.einsum("qd,qd->q", lost_QD, lost_QD))
    return (
        torch.from_numpy(unit_QD),
        torch.from_numpy(codes_QD),
        torch.from_numpy(scale_Q1),
        torch.from_numpy(lost_Q),
    )


def _compared_again(unit_QD: Tensor, rows_QC: Tensor, documents: Documents) -> Tensor:
    """Scores (q, c) of every query with its own candidates, summed in float64: equal documents must get equal scores.

    Documents that many queries have among their candidates are expanded once.
    """
    scores_QC = torch.empty(rows_QC.shape)
    (queries, count), dim, n = rows_QC.shape, unit_QD.shape[1], len(documents.codes_NB)
    if n <= min(queries * count, DENSE * count, VALUES_AT_ONCE // dim):
        values_DN = documents.values().double().T
        for start in range(0, queries, VALUES_AT_ONCE // n):
            part = slice(start, start + VALUES_AT_ONCE // n)
            products = (unit_QD[part].double() @ values_DN).gather(1, rows_QC[part])
            scores_QC[part] = products * documents.weight_N[rows_QC[part]]
        return scores_QC
    step = max(1, VALUES_AT_ONCE // (count * dim))
    for start in range(0, queries, step):
        part = slice(start, start + step)
        values_QCD = documents.part(rows_QC[part].flatten()).values().view(-1, count, dim)
        products = torch.einsum("qd,qcd->qc", unit_QD[part].double(), values_QCD.double())
        scores_QC[part] = products * documents.weight_N[rows_QC[part]]
    return scores_QC
