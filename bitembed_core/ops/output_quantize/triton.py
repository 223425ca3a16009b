"""Embeddings rounded to several numbers of bits (Eq 10 and 11) in one pass, with straight-through gradients."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitembed_core.ops.norm_quantize.triton import round_half_even
from bitembed_core.ops.tuning import warps_for
from bitembed_core.storage.output_quantizer import OUTPUT_BITS


@triton.jit
def output_quantize_kernel(
    e_ptr, y_ptr, vectors, dimension, e_stride, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    vector = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < dimension
    e = tl.load(e_ptr + vector * e_stride + d, mask=inside, other=0.0).to(tl.float32)
    size = e.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # as integers: NaN is the largest
    a = tl.max(size, axis=0).to(tl.float32, bitcast=True)
    relative = tl.div_rn(e, tl.where(a == 0.0, 1.0, a))
    for index in tl.static_range(len(BITS)):
        if BITS[index] == 16:
            value = e
        elif BITS[index] == 1:
            value = tl.where(e >= 0.0, 1.0, -1.0) * a
        else:
            top = (1 << BITS[index]) - 1.0
            level = round_half_even((relative + 1.0) * 0.5 * top)
            level = tl.minimum(tl.maximum(level, 0.0), top)
            value = (tl.div_rn(2.0 * level, top) - 1.0) * a
        at = (tl.num_programs(0).to(tl.int64) * index + vector) * dimension + d
        tl.store(y_ptr + at, value.to(y_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("bitembed::output_quantize", mutates_args=())
def output_quantize(e_ND: Tensor, bits: Sequence[int]) -> Tensor:
    """Embeddings (N, d) -> (number of precisions, N, d), each as `fake_quantize_output` rounds to so many bits a value."""
    if not bits or not set(bits) <= set(OUTPUT_BITS):
        raise ValueError(f"bits must be out of {OUTPUT_BITS}, got {list(bits)}")
    vectors, dimension = e_ND.shape
    if e_ND.stride(-1) != 1:
        e_ND = e_ND.contiguous()
    y_RND = torch.empty(len(bits), vectors, dimension, dtype=e_ND.dtype, device=e_ND.device)
    if y_RND.numel():
        block = triton.next_power_of_2(dimension)
        output_quantize_kernel[(vectors,)](
            e_ND,
            y_RND,
            vectors,
            dimension,
            e_ND.stride(0),
            BITS=tuple(bits),
            BLOCK=block,
            num_warps=warps_for(block),
            enable_fp_fusion=False,
        )
    return y_RND


@output_quantize.register_fake
def _(e_ND: Tensor, bits: Sequence[int]) -> Tensor:
    return e_ND.new_empty((len(bits), *e_ND.shape))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    pass


def _backward(ctx: Any, grad_RND: Tensor) -> tuple[Tensor, None]:
    return grad_RND.sum(dim=0), None


output_quantize.register_autograd(_backward, setup_context=_keep)
