"""The ternary linear map as an exact int8 matrix product with an int32 sum, the scales applied afterwards.

Latent and frozen weights go through the same product, so a model answers the same in training and after freezing, and
a token's result does not depend on the tokens beside it. The backward pass is the reference's: with `Y = Qx(X) Qw(W)^T`
the straight-through estimator gives `dX = dY Qw(W)` and `dW = dY^T Qx(X)`; only int8 codes are kept for it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bitembed_core.quantizers import quantize_activation, quantize_weight


def integer_product(x_codes_MK: Tensor, w_codes_NK: Tensor) -> Tensor:
    """int8 (M, K) times int8 (N, K) transposed, summed in int32: (M, N)."""
    if x_codes_MK.shape[1] == 1:  # torch 2.13 leaves the result of _int_mm unwritten when K is 1
        x_codes_MK, w_codes_NK = F.pad(x_codes_MK, (0, 1)), F.pad(w_codes_NK, (0, 1))
    return torch._int_mm(x_codes_MK, w_codes_NK.t())


def frozen_ternary_linear(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`Qx(x) (scale * codes)^T`: x (..., in), codes int8 (out, in), scale a scalar. Returns (..., out)."""
    x_codes, x_scale = quantize_activation(x)
    product = integer_product(x_codes.flatten(0, -2), codes)
    y = product * (x_scale.reshape(-1, 1) * scale)
    return y.to(_output_dtype(x)).unflatten(0, x.shape[:-1])


def ternary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """As `reference.ternary_linear`, with the product taken in integers."""
    return _TernaryLinear.apply(x, weight)


class _TernaryLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x_codes, x_scale = quantize_activation(x)
        w_codes, w_scale = quantize_weight(weight)
        x_codes, x_scale = x_codes.flatten(0, -2), x_scale.reshape(-1, 1)
        ctx.save_for_backward(x_codes, x_scale, w_codes, w_scale)
        ctx.x_shape, ctx.x_dtype, ctx.w_dtype = x.shape, x.dtype, weight.dtype
        ctx.product_dtype = _output_dtype(x)
        y = integer_product(x_codes, w_codes) * (x_scale * w_scale)
        return y.to(ctx.product_dtype).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        x_codes, x_scale, w_codes, w_scale = ctx.saved_tensors
        grad_y = grad_outputs[0].flatten(0, -2).to(ctx.product_dtype)
        grad_x = grad_y @ w_codes.to(ctx.product_dtype)
        grad_w = (grad_y * x_scale.to(ctx.product_dtype)).t() @ x_codes.to(ctx.product_dtype)
        return (grad_x.to(ctx.x_dtype) * w_scale).view(ctx.x_shape), grad_w.to(ctx.w_dtype)


def _output_dtype(x: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
