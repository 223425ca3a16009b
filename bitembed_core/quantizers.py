"""Ternary weights and 8-bit activations (BITEMBED, arXiv 2606.25674, Eq 1 and 2), with straight-through gradients.

Each quantizer comes in two forms. `quantize_*` returns integer codes and a floating-point scale, what is stored and
what integer kernels multiply. `fake_quantize_*` returns `codes * scale` in the input's dtype and lets the gradient
pass as if nothing had happened (Bengio et al., arXiv 1308.3432), what training uses.
"""

from typing import Any

import torch
from torch import Tensor

EPS = 1e-5


class StraightThrough(torch.autograd.Function):
    """`StraightThrough.apply(x, quantized)` is `quantized` forward, the identity to `x` backward.

    The value is exactly `quantized`; the usual `x + (quantized - x).detach()` is so only up to rounding.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Eq 1: one scale per tensor, `D = mean|W|`, and codes `clip(round(W / (D + eps)), -1, 1)`.

    Args:
        weight: floating point, any shape.

    Returns:
        codes int8 in {-1, 0, 1}, the shape of `weight`; scale `D` float32, a scalar. `Qw(W) = D * codes`.
    """
    weight = weight.float()
    scale = weight.abs().mean()
    codes = torch.div(weight, scale + EPS).round_().clamp_(-1, 1)
    return codes.to(torch.int8), scale


def quantize_activation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eq 2: one scale per token, `g = max|x|`, and codes `clip(round(127 x / (g + eps)), -128, 127)`.

    Args:
        x: floating point (..., features); the last axis is one token.

    Returns:
        codes int8 (..., features); scale `g / 127` float32 (..., 1). `Qx(x) = scale * codes`.
    """
    x = x.float()
    low, high = torch.aminmax(x, dim=-1, keepdim=True)
    largest = torch.maximum(-low, high)
    codes = torch.mul(x, 127.0).div_(largest + EPS).round_().clamp_(-128, 127)
    return codes.to(torch.int8), largest / 127.0


def fake_quantize_weight(weight: Tensor, pressure: float = 1.0) -> Tensor:
    """`W + pressure (Qw(W) - W)` in the dtype and shape of `weight`; gradient straight through.

    Args:
        weight: floating point, any shape.
        pressure: how much of the rounding is done: 1 is `Qw(W)` of Eq 1, 0 is `W`, both exactly. Training may begin with
            little and end with all of it (annealed quantization pressure, as in Hestia, arXiv 2601.20745).
    """
    with torch.no_grad():
        codes, scale = quantize_weight(weight)
        quantized = torch.lerp(weight.float(), codes * scale, pressure)
    return StraightThrough.apply(weight, quantized)


def fake_quantize_activation(x: Tensor) -> Tensor:
    """`Qx(x)` of Eq 2 in the dtype and shape of `x` (..., features); gradient straight through."""
    with torch.no_grad():
        codes, scale = quantize_activation(x)
        quantized = codes * scale
    return StraightThrough.apply(x, quantized)
