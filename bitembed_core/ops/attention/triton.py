"""Attention of texts that lie one after another, and the norms and rotations of its heads, on CUDA devices.

Queries, keys and values of a token lie side by side, as one product leaves them. A program has the queries of one head in a
block of tokens of one text, and goes through the keys that they see with a running softmax (FlashAttention, arXiv
2205.14135). Blocks begin at the first token of their text, so results do not depend on the other texts. Reference:
`reference.py`.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.ops import gpu
from bitembed_core.ops.tuning import card

QUERIES = (64, 32, 16)  # tokens of a block: as many as a card has shared memory for
WARPS = 4
LEAST_WIDTH = 16  # that tensor cores take


class Heads(NamedTuple):
    """Of queries, and of keys and of values; `width` components each."""

    queries: int
    keys: int
    width: int

    @property
    def columns(self) -> int:
        """Of a token's queries, keys and values together."""
        return (self.queries + 2 * self.keys) * self.width


class Span(NamedTuple):
    """Keys of a turn of the kernel's loop, and its stages."""

    keys: int
    stages: int


SPANS = (Span(32, 3), Span(32, 2), Span(16, 2))
SMALLEST = Span(16, 1)


def query_blocks(lengths: NDArray[np.int64], queries: int) -> NDArray[np.int32]:
    """Blocks (3, N) of `queries` tokens of texts of these lengths: a block's first token, its text's first and end."""
    ends = lengths.cumsum()
    counts = -(-lengths // queries)
    text = np.repeat(np.arange(len(lengths)), counts)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    firsts = ends[text] - lengths[text]
    return np.stack([firsts + within * queries, firsts, ends[text]]).astype(np.int32)


@triton.jit
def attention_kernel(
    qkv_ptr,
    start_ptr,
    first_ptr,
    end_ptr,
    y_ptr,
    heads,
    kv_heads,
    window,
    scale,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block, head = tl.program_id(0), tl.program_id(1)
    start, first, end = tl.load(start_ptr + block), tl.load(first_ptr + block), tl.load(end_ptr + block)
    if start >= end:
        return
    columns = (heads + 2 * kv_heads) * WIDTH
    key_column = (heads + head // (heads // kv_heads)) * WIDTH
    query, key = start + tl.arange(0, QUERIES), tl.arange(0, KEYS)
    i = tl.arange(0, BLOCK_WIDTH)
    query_at = query.to(tl.int64)[:, None]
    inside = (query < end)[:, None] & (i < WIDTH)[None, :]
    q = tl.load(qkv_ptr + query_at * columns + head * WIDTH + i[None, :], mask=inside, other=0.0)
    # The keys that any of these queries sees.
    low, high = first, end
    if CAUSAL:
        high = tl.minimum(end, start + QUERIES)
    if HAS_WINDOW:
        low = tl.maximum(first, start - window + 1)
        high = tl.minimum(high, start + QUERIES - 1 + window)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    y = tl.zeros((QUERIES, BLOCK_WIDTH), tl.float32)
    for base in range(low, high, KEYS):
        k_at = base + key
        kv_inside = (k_at < high)[:, None] & (i < WIDTH)[None, :]
        kv_ptr = qkv_ptr + k_at.to(tl.int64)[:, None] * columns + key_column + i[None, :]
        k = tl.load(kv_ptr, mask=kv_inside, other=0.0)
        back = query[:, None] - k_at[None, :]
        seen = (k_at < high)[None, :]
        if CAUSAL:
            seen = seen & (back >= 0)
        if HAS_WINDOW:
            seen = seen & (back < window) & (back > -window)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(seen, scores, float("-inf"))
        above = tl.maximum(largest, tl.max(scores, axis=1))
        shift = tl.where(above == float("-inf"), 0.0, above)  # a query may see none of these keys
        shares = tl.exp2(scores - shift[:, None])
        fading = tl.exp2(largest - shift)
        total = total * fading + tl.sum(shares, axis=1)
        v = tl.load(kv_ptr + kv_heads * WIDTH, mask=kv_inside, other=0.0)
        y = tl.dot(shares.to(v.dtype), v, y * fading[:, None], input_precision=PRECISION)
        largest = above
    y = y / total[:, None]
    y_at = query_at * (heads * WIDTH) + head * WIDTH + i[None, :]
    tl.store(y_ptr + y_at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def prepare_heads_kernel(
    qkv_ptr,
    weight_ptr,
    rotation_ptr,
    position_ptr,
    columns,
    query_heads,
    all_heads,
    eps,
    HAS_NORM: tl.constexpr,
    HAS_ROTATION: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head, i = tl.arange(0, BLOCK_HEADS)[:, None], tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < all_heads) & (i < HALF)
    dtype: tl.constexpr = qkv_ptr.dtype.element_ty
    first_ptr = qkv_ptr + token * columns + head * (2 * HALF) + i
    a = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(first_ptr + HALF, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        mean_square = (tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / (2 * HALF)
        inverse_rms = tl.rsqrt(mean_square + eps)[:, None]
        row_ptr = weight_ptr + tl.where(head < query_heads, 0, 2 * HALF) + i
        a = (a * inverse_rms * tl.load(row_ptr, mask=inside, other=0.0)).to(dtype).to(tl.float32)
        b = (b * inverse_rms * tl.load(row_ptr + HALF, mask=inside, other=0.0)).to(dtype).to(tl.float32)
    if HAS_ROTATION:
        turn_ptr = rotation_ptr + tl.load(position_ptr + token).to(tl.int64) * (2 * HALF) + i
        cosine = tl.load(turn_ptr, mask=i < HALF, other=0.0)
        sine = tl.load(turn_ptr + HALF, mask=i < HALF, other=0.0)
        a, b = a * cosine - b * sine, b * cosine + a * sine
    tl.store(first_ptr, a.to(dtype), mask=inside)
    tl.store(first_ptr + HALF, b.to(dtype), mask=inside)


def attention(
    qkv_MN: Tensor, blocks: Tensor, heads: Heads, scale: float, causal: bool, window: int = 0
) -> Tensor:
    """`softmax(scale q k^T) v` within each text: (M, heads.queries * width) of queries, keys and values (M, N).

    Args:
        qkv_MN: contiguous; a token's queries, keys and values, heads side by side.
        blocks: int32 (3, N), see `query_blocks`, of `block_queries` tokens; a block whose first token is not before its
            text's end is skipped. What belongs to no block is left unwritten.
        scale, causal, window: as in the reference.
    """
    _check(qkv_MN, heads)
    y = torch.empty(len(qkv_MN), heads.queries * heads.width, dtype=qkv_MN.dtype, device=qkv_MN.device)
    if not blocks.shape[1] or not len(qkv_MN):
        return y
    block_width, queries = padded_width(heads.width), block_queries(heads.width, qkv_MN.device)
    span = _span(block_width, queries, qkv_MN)
    attention_kernel[(blocks.shape[1], heads.queries)](
        qkv_MN,
        *blocks.unbind(),
        y,
        heads.queries,
        heads.keys,
        window,
        scale * math.log2(math.e),
        CAUSAL=causal,
        HAS_WINDOW=window > 0,
        WIDTH=heads.width,
        BLOCK_WIDTH=block_width,
        QUERIES=queries,
        KEYS=span.keys,
        PRECISION="tf32x3",  # of float32 operands: its precision, on tensor cores
        num_warps=WARPS,
        num_stages=span.stages,
    )
    return y


def prepare_heads(
    qkv_MN: Tensor,
    heads: Heads,
    weights_2D: Tensor | None,
    eps: float,
    rotations_PD: Tensor | None,
    positions_M: Tensor,
) -> None:
    """RMSNorm and then rotary embedding (arXiv 2104.09864) of queries and keys, in place.

    Args:
        qkv_MN: contiguous, as in `attention`.
        weights_2D: of the queries' norm and the keys', float32; None leaves the norms out.
        rotations_PD: float32, of each position the cosines of half a head's components and then their sines; None
            leaves the rotation out.
        positions_M: int32, of the tokens.
    """
    _check(qkv_MN, heads)
    if not len(qkv_MN) or (weights_2D is None and rotations_PD is None):
        return
    if heads.width % 2:
        raise ValueError(f"{heads} have no halves")
    half, all_heads = heads.width // 2, heads.queries + heads.keys
    prepare_heads_kernel[(len(qkv_MN),)](
        qkv_MN,
        weights_2D,
        rotations_PD,
        positions_M,
        heads.columns,
        heads.queries,
        all_heads,
        eps,
        HAS_NORM=weights_2D is not None,
        HAS_ROTATION=rotations_PD is not None,
        HALF=half,
        BLOCK_HEADS=triton.next_power_of_2(all_heads),
        BLOCK_HALF=triton.next_power_of_2(half),
        num_warps=4,
    )


def _check(qkv_MN: Tensor, heads: Heads) -> None:
    if qkv_MN.shape[1] != heads.columns or not qkv_MN.is_contiguous():
        raise ValueError(
            f"tokens of {heads.columns} columns are needed, contiguous, not {tuple(qkv_MN.shape)}"
        )
    if heads.queries % heads.keys:
        raise ValueError(f"{heads} do not divide")


def padded_width(width: int) -> int:
    """Components of a head with the zeros behind them that a block has."""
    return max(LEAST_WIDTH, triton.next_power_of_2(width))


def block_queries(width: int, device: torch.device) -> int:
    """Tokens of a block of heads of this width on `device`."""
    if gpu.interpreting():
        return QUERIES[-1]
    return fitted_queries(padded_width(width), card(device).shared_bytes)


def fitted_queries(block_width: int, shared_bytes: int) -> int:
    """The most with which float32 fits beside the smallest span, or the fewest: other dtypes take no more."""
    fitting = (q for q in QUERIES if _rows(q, SMALLEST, 4) * block_width * 4 <= shared_bytes)
    return next(fitting, QUERIES[-1])


def fitted_span(block_width: int, queries: int, element_bytes: int, shared_bytes: int) -> Span:
    """The largest with which two programs share a multiprocessor's memory, or the smallest."""
    row_bytes = block_width * element_bytes
    fitting = (span for span in SPANS if 2 * _rows(queries, span, element_bytes) * row_bytes <= shared_bytes)
    return next(fitting, SMALLEST)


def _span(block_width: int, queries: int, x: Tensor) -> Span:
    if gpu.interpreting():
        return SMALLEST
    return fitted_span(block_width, queries, x.element_size(), card(x.device).shared_bytes)


def _rows(queries: int, span: Span, element_bytes: int) -> int:
    """Rows in shared memory: queries, twice in float32, which is split into parts, and keys and values."""
    return queries * (2 if element_bytes == 4 else 1) + 2 * span.keys * span.stages
