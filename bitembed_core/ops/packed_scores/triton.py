"""Scores of queries with packed documents as a Triton kernel: codes become int8 in registers and meet the tensor cores.

A code z of b bits is taken as `w = z - 2^(b-1)`, which is int8, and its value is `2 z - top = 2 w + 2^b - top`. So a score
is `(2 sum(q w) + (2^b - top) sum(q)) weight`. The components of queries are put in planes, one for each place in a byte.

Queries in floating point are unit vectors split into two float16 parts, the second one scaled up by 2^11: products with
whole numbers of at most 8 bits are exact, and the sum is as good as in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitembed_core.similarity import unit_vectors

QUERIES, DOCUMENTS, BYTES = 16, 64, 64  # of a tile
SECOND_PART = 2048.0


@triton.jit
def packed_scores_kernel(
    first_ptr,
    second_ptr,
    sum_ptr,
    codes_ptr,
    weight_ptr,
    y_ptr,
    queries,
    documents,
    row_bytes,
    top,
    BITS: tl.constexpr,
    INTEGER: tl.constexpr,
    QUERIES: tl.constexpr,
    DOCUMENTS: tl.constexpr,
    BYTES: tl.constexpr,
):
    query = tl.program_id(1) * QUERIES + tl.arange(0, QUERIES)
    document = tl.program_id(0).to(tl.int64) * DOCUMENTS + tl.arange(0, DOCUMENTS)
    query_inside = (query < queries)[:, None]
    document_inside = document < documents
    if INTEGER:
        first = tl.zeros((QUERIES, DOCUMENTS), tl.int32)
    else:
        first = tl.zeros((QUERIES, DOCUMENTS), tl.float32)
        second = tl.zeros((QUERIES, DOCUMENTS), tl.float32)
    for start in range(0, row_bytes, BYTES):
        j = start + tl.arange(0, BYTES)
        byte_inside = (j < row_bytes)[None, :]
        at = document[:, None] * row_bytes + j[None, :]
        stored = tl.load(codes_ptr + at, mask=document_inside[:, None] & byte_inside, other=0)
        for field in tl.static_range(8 // BITS):
            z = (stored >> (8 - BITS - field * BITS)) & ((1 << BITS) - 1)
            w = (z.to(tl.int32) - (1 << (BITS - 1))).to(tl.int8)
            at = (field * queries + query[:, None]) * row_bytes + j[None, :]
            q = tl.load(first_ptr + at, mask=query_inside & byte_inside, other=0.0)
            if INTEGER:
                first = tl.dot(q, tl.trans(w), first, out_dtype=tl.int32)
            else:
                w_half = tl.trans(w.to(tl.float16))
                first = tl.dot(q, w_half, first)
                q = tl.load(second_ptr + at, mask=query_inside & byte_inside, other=0.0)
                second = tl.dot(q, w_half, second)
    sums = first.to(tl.float32)
    if not INTEGER:
        sums += second * (1.0 / 2048.0)
    query_sum = tl.load(sum_ptr + query, mask=query < queries, other=0.0)
    weight = tl.load(weight_ptr + document, mask=document_inside, other=0.0)
    y = (2.0 * sums + query_sum[:, None] * ((1 << BITS) - top)) * weight[None, :]
    at = query[:, None].to(tl.int64) * documents + document[None, :]
    tl.store(y_ptr + at, y, mask=query_inside & document_inside[None, :])


@torch.library.custom_op("bitembed::packed_scores", mutates_args=())
def packed_scores(queries_QD: Tensor, codes_NB: Tensor, weight_N: Tensor, bits: int, top: int) -> Tensor:
    """`reference.packed_scores` of queries float32 or int8, which are both taken as directions."""
    integer = queries_QD.dtype == torch.int8
    places = 8 // bits
    filling = codes_NB.shape[1] * places - queries_QD.shape[1]
    y_QN = torch.empty(len(queries_QD), len(codes_NB), device=codes_NB.device)
    if y_QN.numel() == 0:
        return y_QN
    second_PQB = None
    if integer:
        first_PQB = _planes(queries_QD, filling, places)
        sums_Q = queries_QD.sum(dim=1, dtype=torch.int32).float()
    else:
        unit_QD = unit_vectors(queries_QD)
        first_QD = unit_QD.half()
        first_PQB = _planes(first_QD, filling, places)
        second_PQB = _planes(((unit_QD - first_QD.float()) * SECOND_PART).half(), filling, places)
        sums_Q = unit_QD.sum(dim=1)
    grid = (triton.cdiv(len(codes_NB), DOCUMENTS), triton.cdiv(len(queries_QD), QUERIES))
    packed_scores_kernel[grid](
        first_PQB,
        second_PQB,
        sums_Q,
        codes_NB.contiguous(),
        weight_N.contiguous(),
        y_QN,
        *y_QN.shape,
        codes_NB.shape[1],
        top,
        BITS=bits,
        INTEGER=integer,
        QUERIES=QUERIES,
        DOCUMENTS=DOCUMENTS,
        BYTES=BYTES,
    )
    if integer:
        y_QN *= 1 / queries_QD.float().norm(dim=1, keepdim=True).clamp(min=1)
    return y_QN


@packed_scores.register_fake
def _(queries_QD: Tensor, codes_NB: Tensor, weight_N: Tensor, bits: int, top: int) -> Tensor:
    return weight_N.new_empty((queries_QD.shape[0], codes_NB.shape[0]))


def _planes(queries_QD: Tensor, filling: int, places: int) -> Tensor:
    """(places, Q, bytes): the components that meet the first, second ... code of each byte."""
    padded = torch.nn.functional.pad(queries_QD, (0, filling))
    return padded.unflatten(1, (-1, places)).permute(2, 0, 1).contiguous()
