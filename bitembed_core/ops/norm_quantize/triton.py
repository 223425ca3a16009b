"""RMSNorm and int8 quantization of a token in one pass, for one or several projections of it; and the norm's gradient.

Eq 3, then Eq 2. A program has a whole token in registers. Codes are those of `ternary_linear/blocked.py` bit for bit, given
the same inverse RMS.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitembed_core.ops.tuning import warps_for

MOST_FEATURES = 1 << 16
ROWS_OF_A_PROGRAM = 64  # whose gain gradients are summed before they are written


@triton.jit
def round_half_even(x):
    """Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def store_codes(
    x,
    gain_ptr,
    codes_ptr,
    scale_ptr,
    token,
    k,
    inside,
    features,
    eps,
    PROJECTIONS: tl.constexpr,
    HAS_GAIN: tl.constexpr,
):
    """Codes and scales of a token x for each projection; returns its inverse RMS."""
    inverse_rms = 1.0
    if HAS_GAIN:
        mean_square = tl.div_rn(tl.sum(x * x, axis=0), features * 1.0)
        inverse_rms = tl.rsqrt(mean_square + eps)
    for projection in tl.static_range(PROJECTIONS):
        y = x
        if HAS_GAIN:
            gain = tl.load(gain_ptr + projection * features + k, mask=inside, other=0.0).to(tl.float32)
            y = x * inverse_rms * gain
        # Sizes are compared as integers, for which NaN is the largest: it must reach the result.
        size = y.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        largest = tl.max(size, axis=0).to(tl.float32, bitcast=True)
        code = round_half_even(tl.div_rn(y * 127.0, largest + 1e-5)).to(tl.int8)
        row = projection * tl.num_programs(0).to(tl.int64) + token
        tl.store(codes_ptr + row * features + k, code, mask=inside)
        tl.store(scale_ptr + row, tl.div_rn(largest, 127.0))
    return inverse_rms


@triton.jit
def norm_quantize_kernel(
    x_ptr,
    gain_ptr,
    codes_ptr,
    scale_ptr,
    inverse_rms_ptr,
    features,
    x_stride,
    eps,
    PROJECTIONS: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    inside = k < features
    x = tl.load(x_ptr + token * x_stride + k, mask=inside, other=0.0).to(tl.float32)
    inverse_rms = store_codes(
        x, gain_ptr, codes_ptr, scale_ptr, token, k, inside, features, eps, PROJECTIONS, HAS_GAIN
    )
    tl.store(inverse_rms_ptr + token, inverse_rms)


@triton.jit
def norm_backward_kernel(
    grad_ptr,
    x_ptr,
    inverse_rms_ptr,
    gain_ptr,
    grad_x_ptr,
    grad_gain_ptr,
    tokens,
    features,
    TOKENS_OF_A_PROGRAM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    first = program * TOKENS_OF_A_PROGRAM
    grad_ptr += first * features
    x_ptr += first * features
    grad_x_ptr += first * features
    k = tl.arange(0, BLOCK)
    inside = k < features
    gain = tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
    grad_gain = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, tl.minimum(TOKENS_OF_A_PROGRAM, tokens - first)):
        at = i * features + k
        grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        inverse_rms = tl.load(inverse_rms_ptr + first + i)
        x_hat = x * inverse_rms
        grad_gain += grad * x_hat
        mean = tl.sum(grad * x_hat * gain, axis=0) / features
        grad_x = (grad * gain - x_hat * mean) * inverse_rms
        tl.store(grad_x_ptr + at, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_gain_ptr + program * features + k, grad_gain, mask=inside)


@torch.library.custom_op("bitembed::norm_quantize", mutates_args=())
def norm_quantize(x_MK: Tensor, gains_PK: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of tokens for P projections of them.

    Args:
        x_MK: any floating dtype.
        gains_PK: a row of gains a projection; None leaves the norm out, for one projection.
        eps: epsilon under the norm's root.

    Returns:
        codes int8 (P, M, K); scale float32 (P, M); inverse RMS float32 (M,), ones without a norm.
    """
    tokens, features = x_MK.shape
    if features > MOST_FEATURES:
        raise ValueError(f"tokens of {features} features; the kernel takes up to {MOST_FEATURES}")
    projections = 1 if gains_PK is None else len(gains_PK)
    if x_MK.stride(-1) != 1:
        x_MK = x_MK.contiguous()
    codes_PMK = torch.empty(projections, tokens, features, dtype=torch.int8, device=x_MK.device)
    scale_PM = torch.empty(projections, tokens, device=x_MK.device)
    inverse_rms_M = torch.empty(tokens, device=x_MK.device)
    if tokens:
        block = triton.next_power_of_2(features)
        norm_quantize_kernel[(tokens,)](
            x_MK,
            gains_PK if gains_PK is None else gains_PK.contiguous(),
            codes_PMK,
            scale_PM,
            inverse_rms_M,
            features,
            x_MK.stride(0),
            eps,
            PROJECTIONS=projections,
            HAS_GAIN=gains_PK is not None,
            BLOCK=block,
            num_warps=warps_for(block),
            enable_fp_fusion=False,
        )
    return codes_PMK, scale_PM, inverse_rms_M


@norm_quantize.register_fake
def _(x_MK: Tensor, gains_PK: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    projections = 1 if gains_PK is None else len(gains_PK)
    return (
        x_MK.new_empty((projections, *x_MK.shape), dtype=torch.int8),
        x_MK.new_empty((projections, x_MK.shape[0]), dtype=torch.float32),
        x_MK.new_empty(x_MK.shape[0], dtype=torch.float32),
    )


@torch.library.custom_op("bitembed::norm_backward", mutates_args=())
def norm_backward(
    grad_MK: Tensor, x_MK: Tensor, inverse_rms_M: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the RMSNorm, as `ternary_linear/blocked.py` has them: of x in its dtype, of the gain in float32."""
    tokens, features = x_MK.shape
    grad_MK, x_MK = grad_MK.contiguous(), x_MK.contiguous()
    programs = triton.cdiv(tokens, ROWS_OF_A_PROGRAM)
    grad_x_MK = torch.empty_like(x_MK)
    partial_PK = torch.empty(programs, features, device=x_MK.device)
    if tokens:
        block = triton.next_power_of_2(features)
        norm_backward_kernel[(programs,)](
            grad_MK,
            x_MK,
            inverse_rms_M,
            gain.contiguous(),
            grad_x_MK,
            partial_PK,
            tokens,
            features,
            TOKENS_OF_A_PROGRAM=ROWS_OF_A_PROGRAM,
            BLOCK=block,
            num_warps=warps_for(block),
        )
    return grad_x_MK, partial_PK.sum(dim=0)


@norm_backward.register_fake
def _(grad_MK: Tensor, x_MK: Tensor, inverse_rms_M: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x_MK), gain.new_empty(gain.shape, dtype=torch.float32)
