"""The layer as an exact int8 matrix product with an int32 sum, the scales applied afterwards.

Latent and frozen weights go through the same product, so a model answers the same in training and after freezing, and
a token's result does not depend on the tokens beside it. The backward pass is the reference's: with `Y = Qx(X) Qw(W)^T`
the straight-through estimator gives `dX = dY Qw(W)` and `dW = dY^T Qx(X)`; besides the input only int8 codes are kept.
"""

from typing import Any

import torch
from torch import Tensor

from bitembed_core.ops.ternary_linear import blocked
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.ops.ternary_linear.passes import BLOCKED, Passes


def ternary_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    passes: Passes = BLOCKED,
) -> Tensor:
    """As `reference.ternary_linear`, with the product taken in integers."""
    gain, eps = norm if norm is not None else (None, 0.0)
    return _TernaryLinear.apply(x, weight, bias, gain, eps, passes)


@torch.no_grad()
def frozen_ternary_linear(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
) -> Tensor:
    """As `reference.frozen_ternary_linear`, with the product taken in integers and without gradients."""
    x_codes_MK, x_scale_M1, _ = blocked.quantize_normalised(x.flatten(0, -2), norm)
    y_MN = blocked.scaled_product(x_codes_MK, codes, x_scale_M1 * scale, bias, output_dtype(x))
    return y_MN.unflatten(0, x.shape[:-1])


class _TernaryLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gain: Tensor | None,
        eps: float,
        passes: Passes,
    ) -> Tensor:
        norm = Norm(gain, eps) if gain is not None else None
        x_MK = x.flatten(0, -2)
        y_MN, *kept = passes.forward(x_MK, weight, bias, norm, output_dtype(x))
        ctx.save_for_backward(x_MK if gain is not None else None, gain, *kept)
        ctx.eps, ctx.x_shape, ctx.x_dtype, ctx.w_dtype = eps, x.shape, x.dtype, weight.dtype
        ctx.product_dtype, ctx.has_bias, ctx.passes = y_MN.dtype, bias is not None, passes
        return y_MN.unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_MK, gain, x_codes_MK, x_scale_M1, inverse_rms_M1, w_codes_NK, w_scale = ctx.saved_tensors
        dtype, passes = ctx.product_dtype, ctx.passes
        grad_MN = grad_outputs[0].flatten(0, -2).to(dtype)
        scaled_grad_MN, grad_bias = passes.scale_gradient(grad_MN, x_scale_M1, ctx.has_bias)
        grad_w = scaled_grad_MN.t() @ x_codes_MK.to(dtype)
        grad_MK = grad_MN @ w_codes_NK.to(dtype).mul_(w_scale.to(dtype))
        grad_gain = None
        if gain is not None:
            grad_MK, grad_gain = passes.norm_backward(grad_MK, x_MK, inverse_rms_M1, Norm(gain, ctx.eps))
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
