"""Integer products of int8 tokens with ternary weights as Triton kernels: two-bit or int8 weights, scales in the epilogue.

Weights of two bits (`planar.py`) are unpacked in registers, four in an instruction; each plane meets its own stretch of a
token. They are the left operand, which tensor cores take from registers. Sums are exact in int32, so nothing depends on the
tiles. One launch serves several projections of a token, which may have codes of their own.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitembed_core.ops import gpu
from bitembed_core.ops.tuning import tile_for

SILU, GELU_TANH, GELU_ERF = 0, 1, 2
ACTIVATIONS = {"silu": SILU, "gelu_tanh": GELU_TANH, "gelu": GELU_ERF}
TOKEN_TILES_OF_A_GROUP = 8  # that follow each other with the same weights, which then stay in the cache
INTERPRETED = tl.constexpr(gpu.interpreting())  # where there are no instructions to write


@triton.constexpr_function
def unpack_four(plane):
    """PTX that turns four stored bytes into the weights of a plane: (byte >> 2 plane) & 3, minus one. Adding 127 to at most
    3 carries nothing into the next byte."""
    shift = f"shr.u32 t, $1, {2 * plane}; "
    return (
        "{ .reg .b32 t; " + shift + "and.b32 t, t, 0x03030303; add.u32 t, t, 0x7f7f7f7f; "
        "xor.b32 $0, t, 0x80808080; }"
    )


@triton.jit
def weights_of(stored, PLANE: tl.constexpr):
    """The weights -1, 0 and 1 in plane 0 to 3 of stored bytes, int8."""
    if INTERPRETED:
        w = ((stored >> (2 * PLANE)) & 3).to(tl.int8) - 1
    else:
        w = tl.inline_asm_elementwise(
            unpack_four(PLANE), "=r,r", [stored], dtype=tl.int8, is_pure=True, pack=4
        )
    return w


@triton.jit
def tile_sums(
    x_ptr,
    w_ptr,
    token,
    row,
    tokens,
    last_row,
    in_features,
    row_bytes,
    PACKED: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """Sums int32 (TOKENS, ROWS) of tokens `token` and weight rows `row`; both are int64 and may lie past the end."""
    sums = tl.zeros((ROWS, TOKENS), tl.int32)
    token_inside = (token < tokens)[:, None]
    row_inside = (row < last_row)[:, None]
    x_row_ptr = x_ptr + token[:, None] * in_features
    w_row_ptr = w_ptr + row[:, None] * row_bytes
    for start in range(0, row_bytes, BYTES):
        j = start + tl.arange(0, BYTES)
        byte_inside = (j < row_bytes)[None, :]
        stored = tl.load(w_row_ptr + j[None, :], mask=row_inside & byte_inside, other=0)
        if PACKED:
            for plane in tl.static_range(4):
                k = plane * row_bytes + j
                inside = token_inside & byte_inside & (k < in_features)[None, :]
                x = tl.load(x_row_ptr + k[None, :], mask=inside, other=0)
                sums = tl.dot(weights_of(stored, plane), tl.trans(x), sums, out_dtype=tl.int32)
        else:
            x = tl.load(x_row_ptr + j[None, :], mask=token_inside & byte_inside, other=0)
            sums = tl.dot(stored, tl.trans(x), sums, out_dtype=tl.int32)
    return tl.trans(sums)


@triton.jit
def tile_of(program, token_tiles, row_tiles, GROUP: tl.constexpr):
    """The tile of a program: GROUP token tiles take turns with a row tile before the next row tile begins."""
    group = program // (GROUP * row_tiles)
    first = group * GROUP
    size = tl.minimum(token_tiles - first, GROUP)
    within = program % (GROUP * row_tiles)
    return first + within % size, within // size


@triton.jit
def product_kernel(
    x_ptr,
    x_scale_ptr,
    w_ptr,
    w_scale_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    tokens,
    in_features,
    row_bytes,
    end_0,
    end_1,
    end_2,
    out_features,
    shared_codes,
    PROJECTIONS: tl.constexpr,
    PACKED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    # A row tile belongs to one projection; the last tile of each may be cut off.
    row_tiles = tl.cdiv(end_0, ROWS)
    if PROJECTIONS > 1:
        row_tiles += tl.cdiv(end_1 - end_0, ROWS)
    if PROJECTIONS > 2:
        row_tiles += tl.cdiv(end_2 - end_1, ROWS)
    token_tile, row_tile = tile_of(tl.program_id(0), tl.cdiv(tokens, TOKENS), row_tiles, GROUP)
    projection, first_row, last_row = 0, row_tile * ROWS, end_0
    if PROJECTIONS > 1:
        second = row_tile - tl.cdiv(end_0, ROWS)
        projection = tl.where(second >= 0, 1, projection)
        first_row = tl.where(second >= 0, end_0 + second * ROWS, first_row)
        last_row = tl.where(second >= 0, end_1, last_row)
        if PROJECTIONS > 2:
            third = second - tl.cdiv(end_1 - end_0, ROWS)
            projection = tl.where(third >= 0, 2, projection)
            first_row = tl.where(third >= 0, end_1 + third * ROWS, first_row)
            last_row = tl.where(third >= 0, end_2, last_row)
    token = token_tile.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    row = first_row.to(tl.int64) + tl.arange(0, ROWS)
    of_codes = (token_tile * 0 + projection * (1 - shared_codes)).to(tl.int64) * tokens
    sums = tile_sums(
        x_ptr + of_codes * in_features,
        w_ptr,
        token,
        row,
        tokens,
        last_row,
        in_features,
        row_bytes,
        PACKED,
        TOKENS,
        ROWS,
        BYTES,
    )
    x_scale = tl.load(x_scale_ptr + of_codes + token, mask=token < tokens, other=0.0)
    y = sums.to(tl.float32) * (x_scale * tl.load(w_scale_ptr + projection))[:, None]
    if HAS_BIAS:
        y += tl.load(bias_ptr + row, mask=row < last_row, other=0.0).to(tl.float32)[None, :]
    at = token[:, None] * out_features + row[None, :]
    inside = (token < tokens)[:, None] & (row < last_row)[None, :]
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """SiLU, or GELU in its tanh or erf form."""
    if ACTIVATION == 0:
        y = x / (1.0 + tl.exp(-x))
    elif ACTIVATION == 1:
        y = x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    else:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return y


@triton.jit
def gated_kernel(
    x_ptr,
    x_scale_ptr,
    gate_ptr,
    up_ptr,
    w_scale_ptr,
    gate_bias_ptr,
    up_bias_ptr,
    y_ptr,
    tokens,
    in_features,
    row_bytes,
    out_features,
    shared_codes,
    HAS_GATE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    token_tile, row_tile = tile_of(
        tl.program_id(0), tl.cdiv(tokens, TOKENS), tl.cdiv(out_features, ROWS), GROUP
    )
    token = token_tile.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    row = row_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    of_up = (token_tile * 0 + 1 - shared_codes).to(tl.int64) * tokens
    up = tile_sums(
        x_ptr + of_up * in_features,
        up_ptr,
        token,
        row,
        tokens,
        out_features,
        in_features,
        row_bytes,
        True,
        TOKENS,
        ROWS,
        BYTES,
    )
    up_scale = tl.load(x_scale_ptr + of_up + token, mask=token < tokens, other=0.0) * tl.load(w_scale_ptr + 1)
    y = up.to(tl.float32) * up_scale[:, None]
    if HAS_BIAS:
        y += tl.load(up_bias_ptr + row, mask=row < out_features, other=0.0).to(tl.float32)[None, :]
    if HAS_GATE:
        gate = tile_sums(
            x_ptr,
            gate_ptr,
            token,
            row,
            tokens,
            out_features,
            in_features,
            row_bytes,
            True,
            TOKENS,
            ROWS,
            BYTES,
        )
        gate_scale = tl.load(x_scale_ptr + token, mask=token < tokens, other=0.0) * tl.load(w_scale_ptr)
        g = gate.to(tl.float32) * gate_scale[:, None]
        if HAS_BIAS:
            g += tl.load(gate_bias_ptr + row, mask=row < out_features, other=0.0).to(tl.float32)[None, :]
        y = activated(g, ACTIVATION) * y
    else:
        y = activated(y, ACTIVATION)
    at = token[:, None] * out_features + row[None, :]
    inside = (token < tokens)[:, None] & (row < out_features)[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("bitembed::ternary_product", mutates_args=())
def ternary_product(
    codes_PMK: Tensor,
    scale_PM: Tensor,
    weight: Tensor,
    w_scale_P: Tensor,
    rows: Sequence[int],
    bias_N: Tensor | None,
    residual_MN: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`sums * (token's scale * weight's scale) + bias + residual`.

    Args:
        codes_PMK: int8 codes of the tokens for each of P projections, or (1, M, K) for all of them; scale_PM their scales.
        weight: the rows of all projections, one below the other: uint8 (N, J) in planes, or int8 codes (N, K).
        w_scale_P: the weights' scales, float32.
        rows: how many rows each projection has.
        bias_N, residual_MN: or None.
        dtype: of the result.

    Returns:
        (M, N); the columns of the projections side by side.
    """
    projections, (tokens, in_features) = len(rows), codes_PMK.shape[1:]
    if not 1 <= projections <= 3:
        raise ValueError(f"one to three projections share a launch, not {projections}")
    if sum(rows) != len(weight) or projections != len(w_scale_P) or len(codes_PMK) not in (1, projections):
        raise ValueError(
            f"{projections} projections of {list(rows)} rows do not fit weights {tuple(weight.shape)}, scales "
            f"{tuple(w_scale_P.shape)} and codes {tuple(codes_PMK.shape)}"
        )
    y_MN = torch.empty(tokens, sum(rows), dtype=dtype, device=codes_PMK.device)
    if y_MN.numel() == 0:
        return y_MN
    ends = [sum(rows[: p + 1]) for p in range(projections)] + [0] * (3 - projections)
    tile = tile_for(tokens, sum(rows), codes_PMK.device)
    row_tiles = sum(triton.cdiv(n, tile.rows) for n in rows)
    weight = weight.contiguous()
    product_kernel[(triton.cdiv(tokens, tile.tokens) * row_tiles,)](
        codes_PMK.contiguous(),
        scale_PM.contiguous(),
        weight,
        w_scale_P.contiguous(),
        None if bias_N is None else bias_N.contiguous(),
        None if residual_MN is None else residual_MN.contiguous(),
        y_MN,
        tokens,
        in_features,
        weight.shape[1],
        *ends,
        sum(rows),
        int(len(codes_PMK) == 1),
        PROJECTIONS=projections,
        PACKED=weight.dtype == torch.uint8,
        HAS_BIAS=bias_N is not None,
        HAS_RESIDUAL=residual_MN is not None,
        GROUP=TOKEN_TILES_OF_A_GROUP,
        **tile.launch(),
    )
    return y_MN


@ternary_product.register_fake
def _(
    codes_PMK: Tensor,
    scale_PM: Tensor,
    weight: Tensor,
    w_scale_P: Tensor,
    rows: Sequence[int],
    bias_N: Tensor | None,
    residual_MN: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    return codes_PMK.new_empty((codes_PMK.shape[1], weight.shape[0]), dtype=dtype)


@torch.library.custom_op("bitembed::gated_product", mutates_args=())
def gated_product(
    codes_PMK: Tensor,
    scale_PM: Tensor,
    gate: Tensor | None,
    up: Tensor,
    w_scale_2: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    activation: int,
    dtype: torch.dtype,
) -> Tensor:
    """`activation(gate) * up` of two projections (M, N) of a token, neither of which is stored; `activation(up)` without
    gate.

    Args:
        codes_PMK: int8 codes (2, M, K) for gate and up, or (1, M, K) for both; scale_PM their scales.
        gate, up: uint8 (N, J) in planes. w_scale_2: their scales, float32.
        gate_bias, up_bias: (N,), both or none.
        activation: SILU, GELU_TANH or GELU_ERF.
    """
    tokens, in_features = codes_PMK.shape[1:]
    if gate is not None and gate.shape != up.shape:
        raise ValueError(f"gate {tuple(gate.shape)} and up {tuple(up.shape)} must have the same shape")
    if gate is not None and (gate_bias is None) != (up_bias is None):
        raise ValueError("gate and up must both have a bias, or neither")
    y_MN = torch.empty(tokens, len(up), dtype=dtype, device=codes_PMK.device)
    if y_MN.numel() == 0:
        return y_MN
    tile = tile_for(tokens, len(up), codes_PMK.device)
    gated_kernel[(triton.cdiv(tokens, tile.tokens) * triton.cdiv(len(up), tile.rows),)](
        codes_PMK.contiguous(),
        scale_PM.contiguous(),
        None if gate is None else gate.contiguous(),
        up.contiguous(),
        w_scale_2.contiguous(),
        None if gate_bias is None else gate_bias.contiguous(),
        None if up_bias is None else up_bias.contiguous(),
        y_MN,
        tokens,
        in_features,
        up.shape[1],
        len(up),
        int(len(codes_PMK) == 1),
        HAS_GATE=gate is not None,
        HAS_BIAS=up_bias is not None,
        ACTIVATION=activation,
        GROUP=TOKEN_TILES_OF_A_GROUP,
        **tile.launch(),
    )
    return y_MN


@gated_product.register_fake
def _(
    codes_PMK: Tensor,
    scale_PM: Tensor,
    gate: Tensor | None,
    up: Tensor,
    w_scale_2: Tensor,
    gate_bias: Tensor | None,
    up_bias: Tensor | None,
    activation: int,
    dtype: torch.dtype,
) -> Tensor:
    return codes_PMK.new_empty((codes_PMK.shape[1], up.shape[0]), dtype=dtype)
