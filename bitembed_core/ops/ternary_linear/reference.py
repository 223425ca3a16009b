"""The layer in plain floating point: the equations, and what every other implementation is tested against."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.quantizers import fake_quantize_activation, fake_quantize_weight


def ternary_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Tensor:
    """`Qx(norm(x)) Qw(W)^T + bias` with straight-through gradients (Eq 1 to 3).

    Args:
        x: (..., in), any float dtype.
        weight: latent weight (out, in). bias: (out,) or None.
        norm: gain and epsilon of the RMSNorm before the projection, or None.

    Returns:
        (..., out) in the dtype `F.linear` would give (autocast included).
    """
    return F.linear(fake_quantize_activation(normalised(x, norm)), fake_quantize_weight(weight), bias)


def annealed_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    pressure: float = 1.0,
) -> Tensor:
    """As `ternary_linear`, with a weight that is rounded as far as `pressure` says (see `fake_quantize_weight`).

    Such a weight has no integer codes, so this is what runs on every device while quantization sets in.
    """
    x_quantized = fake_quantize_activation(normalised(x, norm))
    return F.linear(x_quantized, fake_quantize_weight(weight, pressure), bias)


def frozen_ternary_linear(
    x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """The same for a weight that is ternary already: codes int8 (out, in), scale a scalar."""
    return F.linear(fake_quantize_activation(normalised(x, norm)), codes * scale, bias)


def unquantized_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """`norm(x) W^T + bias`: the layer without any rounding, to see what the norms alone change."""
    return F.linear(normalised(x, norm), weight, bias)


def normalised(x: Tensor, norm: Norm | None) -> Tensor:
    """`gain * x / sqrt(mean(x^2) + eps)` in float32, or x itself."""
    if norm is None:
        return x
    x = x.float()
    return norm.gain * x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + norm.eps)
