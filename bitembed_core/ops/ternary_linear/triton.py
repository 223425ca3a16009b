"""The layer on CUDA devices: weights at two bits or latent, int8 tokens, int8 tensor cores.

Forward values are those of `integer.py` bit for bit, given the same inverse RMS and weight scale. The backward pass is that
of the reference, its two matrix products in the dtype of the result.
"""

from typing import Any

import torch
from torch import Tensor

from bitembed_core.ops.norm_quantize.triton import norm_backward, norm_quantize
from bitembed_core.ops.ternary_linear.integer import output_dtype
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.ops.ternary_linear.planar import PlanarWeight, pack_planes
from bitembed_core.ops.ternary_linear.product import ternary_product
from bitembed_core.ops.weight_quantize.triton import quantize_weight


def ternary_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Tensor:
    """As `reference.ternary_linear`, with the product taken in integers; differentiable."""
    gain, eps = norm if norm is not None else (None, 0.0)
    return latent_linear(x, weight, bias, gain, eps, output_dtype(x))[0]


@torch.no_grad()
def frozen_ternary_linear(
    x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """As `reference.frozen_ternary_linear`: int8 codes (out, in) and their scale ()."""
    return planar_ternary_linear(x, PlanarWeight(pack_planes(codes), codes.shape[1]), scale, bias, norm)


@torch.no_grad()
def planar_ternary_linear(
    x: Tensor, weight: PlanarWeight, scale: Tensor, bias: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """The same for a weight in planes; x (..., in) -> (..., out), in x's dtype or that of autocast."""
    x_MK = x.flatten(0, -2)
    gains = None if norm is None else norm.gain.detach()[None]
    codes, x_scale, _ = norm_quantize(x_MK, gains, 0.0 if norm is None else norm.eps)
    planes = weight.planes
    y_MN = ternary_product(
        codes, x_scale, planes, scale.view(1).float(), [len(planes)], bias, None, output_dtype(x)
    )
    return y_MN.unflatten(0, x.shape[:-1])


@torch.library.custom_op("bitembed::latent_linear", mutates_args=())
def latent_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y (..., out) of x (..., in) and a latent weight (out, in); then what the backward pass needs: the tokens' codes
    (M, in), their scales (M,) and inverse RMS (M,), the weight's codes (out, in) and scale ()."""
    x_codes, x_scale, inverse_rms = norm_quantize(x.flatten(0, -2), None if gain is None else gain[None], eps)
    w_codes, w_scale = quantize_weight(weight)
    y_MN = ternary_product(x_codes, x_scale, w_codes, w_scale[None], [len(weight)], bias, None, dtype)
    return y_MN.unflatten(0, x.shape[:-1]), x_codes[0], x_scale[0], inverse_rms, w_codes, w_scale


@latent_linear.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens = x.numel() // x.shape[-1]
    return (
        x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype),
        x.new_empty((tokens, x.shape[-1]), dtype=torch.int8),
        x.new_empty(tokens, dtype=torch.float32),
        x.new_empty(tokens, dtype=torch.float32),
        torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format),
        weight.new_empty((), dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, gain, _, dtype = inputs
    ctx.save_for_backward(x if gain is not None else None, gain, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.x_shape, ctx.x_dtype, ctx.w_dtype, ctx.dtype = x.shape, x.dtype, weight.dtype, dtype
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad_y: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, gain, x_codes_MK, x_scale_M, inverse_rms_M, w_codes_NK, w_scale = ctx.saved_tensors
    dtype = ctx.dtype
    grad_MN = grad_y.flatten(0, -2).to(dtype)
    grad_w = (grad_MN * x_scale_M[:, None].to(dtype)).t() @ x_codes_MK.to(dtype)
    grad_bias = None if ctx.bias_dtype is None else grad_MN.sum(dim=0, dtype=torch.float32).to(ctx.bias_dtype)
    grad_MK = grad_MN @ w_codes_NK.to(dtype).mul_(w_scale.to(dtype))
    grad_gain = None
    if gain is not None:
        grad_MK, grad_gain = norm_backward(grad_MK, x.flatten(0, -2), inverse_rms_M, gain)
        grad_gain = grad_gain.to(gain.dtype)
    grad_x = grad_MK.to(ctx.x_dtype).view(ctx.x_shape)
    return grad_x, grad_w.to(ctx.w_dtype), grad_bias, grad_gain, None, None


latent_linear.register_autograd(_backward, setup_context=_keep)
