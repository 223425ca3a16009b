"""Ternary quantization of a weight (Eq 1) in two launches: partial sums of |w|, then rounding by their mean.

The mean never leaves the device. Partial sums are float64, so that the scale is that of the CPU whatever their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitembed_core.ops.norm_quantize.triton import round_half_even

BLOCK = 4096
MOST_PARTS = 1024  # partial sums, which every program of the second launch adds up


@triton.jit
def partial_sums_kernel(w_ptr, parts_ptr, size, blocks_of_a_part, BLOCK: tl.constexpr):
    part = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float64)
    for i in range(blocks_of_a_part):
        at = (part * blocks_of_a_part + i) * BLOCK + tl.arange(0, BLOCK)
        total += tl.abs(tl.load(w_ptr + at, mask=at < size, other=0.0)).to(tl.float64)
    tl.store(parts_ptr + part, tl.sum(total, axis=0))


@triton.jit
def ternary_kernel(
    w_ptr,
    parts_ptr,
    codes_ptr,
    scale_ptr,
    size,
    parts,
    MOST_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, MOST_PARTS)
    total = tl.sum(tl.load(parts_ptr + part, mask=part < parts, other=0.0), axis=0)
    scale = (total / size).to(tl.float32)
    if block == 0:
        tl.store(scale_ptr, scale)
    at = block * BLOCK + tl.arange(0, BLOCK)
    w = tl.load(w_ptr + at, mask=at < size, other=0.0).to(tl.float32)
    # Clipped before rounding, which then meets no large numbers: the codes are the same.
    quotient = tl.minimum(tl.maximum(tl.div_rn(w, scale + 1e-5), -1.0), 1.0)
    tl.store(codes_ptr + at, round_half_even(quotient).to(tl.int8), mask=at < size)


@torch.library.custom_op("bitembed::quantize_weight", mutates_args=())
def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """As `quantizers.quantize_weight`."""
    weight = weight.contiguous()
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty((), device=weight.device)
    blocks = triton.cdiv(weight.numel(), BLOCK)
    if blocks == 0:
        return codes, scale.fill_(float("nan"))  # a mean of nothing
    blocks_of_a_part = triton.cdiv(blocks, MOST_PARTS)
    parts = triton.cdiv(blocks, blocks_of_a_part)
    sums = torch.empty(parts, dtype=torch.float64, device=weight.device)
    partial_sums_kernel[(parts,)](weight, sums, weight.numel(), blocks_of_a_part, BLOCK=BLOCK, num_warps=8)
    ternary_kernel[(blocks,)](
        weight,
        sums,
        codes,
        scale,
        weight.numel(),
        parts,
        MOST_PARTS=MOST_PARTS,
        BLOCK=BLOCK,
        num_warps=8,
    )
    return codes, scale


@quantize_weight.register_fake
def _(weight: Tensor) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format),
        weight.new_empty((), dtype=torch.float32),
    )
