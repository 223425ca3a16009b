"""The layer as an exact int8 matrix product with an int32 sum, the scales applied afterwards.

Latent and frozen weights go through the same product, so a model answers the same in training and after freezing, and
a token's result does not depend on the tokens beside it. The backward pass is the reference's: with `Y = Qx(X) Qw(W)^T`
the straight-through estimator gives `dX = dY Qw(W)` and `dW = dY^T Qx(X)`; besides the input only int8 codes are kept.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitembed_core.ops.ternary_linear.blocked import norm_backward, quantize_normalised, scaled
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.quantizers import quantize_weight

# (M, K), norm -> codes int8 (M, K), scale (M, 1), inverse RMS (M, 1)
NormQuantize = Callable[[Tensor, Norm | None], tuple[Tensor, Tensor, Tensor]]


def ternary_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    quantize: NormQuantize = quantize_normalised,
) -> Tensor:
    """As `reference.ternary_linear`, with the product taken in integers."""
    gain, eps = norm if norm is not None else (None, 0.0)
    return _TernaryLinear.apply(x, weight, bias, gain, eps, quantize)


@torch.no_grad()
def frozen_ternary_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    quantize: NormQuantize = quantize_normalised,
) -> Tensor:
    """As `reference.frozen_ternary_linear`, with the product taken in integers and without gradients."""
    x_codes_MK, x_scale_M1, _ = quantize(x.flatten(0, -2), norm)
    y_MN = scaled(integer_product(x_codes_MK, codes), x_scale_M1 * scale, bias, output_dtype(x))
    return y_MN.unflatten(0, x.shape[:-1])


def integer_product(x_codes_MK: Tensor, w_codes_NK: Tensor) -> Tensor:
    """int8 (M, K) times int8 (N, K) transposed, summed in int32: (M, N)."""
    if x_codes_MK.shape[1] == 1:  # torch 2.13 leaves the result of _int_mm unwritten when K is 1
        x_codes_MK, w_codes_NK = F.pad(x_codes_MK, (0, 1)), F.pad(w_codes_NK, (0, 1))
    return torch._int_mm(x_codes_MK, w_codes_NK.t())


class _TernaryLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gain: Tensor | None,
        eps: float,
        quantize: NormQuantize,
    ) -> Tensor:
        norm = Norm(gain, eps) if gain is not None else None
        x_MK = x.flatten(0, -2)
        x_codes_MK, x_scale_M1, inverse_rms_M1 = quantize(x_MK, norm)
        w_codes_NK, w_scale = quantize_weight(weight)
        ctx.save_for_backward(
            x_MK if gain is not None else None,
            x_codes_MK,
            x_scale_M1,
            inverse_rms_M1,
            w_codes_NK,
            w_scale,
            gain,
        )
        ctx.eps, ctx.x_shape, ctx.x_dtype, ctx.w_dtype = eps, x.shape, x.dtype, weight.dtype
        ctx.product_dtype, ctx.has_bias = output_dtype(x), bias is not None
        y_MN = scaled(integer_product(x_codes_MK, w_codes_NK), x_scale_M1 * w_scale, bias, ctx.product_dtype)
        return y_MN.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, x_codes_MK, x_scale_M1, inverse_rms_M1, w_codes_NK, w_scale, gain = ctx.saved_tensors
        dtype = ctx.product_dtype
        grad_MN = grad_outputs[0].flatten(0, -2).to(dtype)
        grad_w = (grad_MN * x_scale_M1.to(dtype)).t() @ x_codes_MK.to(dtype)
        grad_bias = grad_MN.sum(dim=0, dtype=torch.float32) if ctx.has_bias else None
        grad_MK = grad_MN @ (w_codes_NK.to(dtype) * w_scale.to(dtype))
        grad_gain = None
        if gain is not None:
            grad_MK, grad_gain = norm_backward(grad_MK, x_MK, inverse_rms_M1, Norm(gain, ctx.eps))
        return (
            grad_MK.to(ctx.x_dtype).view(ctx.x_shape),
            grad_w.to(ctx.w_dtype),
            grad_bias,
            grad_gain,
            None,
            None,
        )


def output_dtype(x: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
