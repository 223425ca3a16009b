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
    quantized: Tensor,
    pressure: float,
    bias: Tensor | None = None,
    norm: Norm | None = None,
) -> Tensor:
    """As `ternary_linear`, with the weight `W + pressure (Qw(W) - W)`: with 0 it is `W`, with 1 it is `Qw(W)`.

    Training may begin with little quantization and end with all of it (annealed pressure, as in Hestia, arXiv 2601.20745).
    What is between has no integer codes, so this is what runs on every device while quantization sets in.

    Args:
        quantized: `Qw(W)` (out, in), with its gradients.
    """
    softened = torch.lerp(weight, quantized.to(weight.dtype), pressure)
    return F.linear(fake_quantize_activation(normalised(x, norm)), softened, bias)


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
