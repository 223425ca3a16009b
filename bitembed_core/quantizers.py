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


class _LearnedPattern(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, log_scale: Tensor) -> Tensor:
        scale = log_scale.float().exp()
        ctx.save_for_backward(weight, scale)
        codes = torch.div(weight.float(), scale).round_().clamp_(-1, 1)
        share = codes.count_nonzero() / codes.numel()
        return codes.mul_(scale / share.clamp(min=1 / codes.numel()))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        weight, scale = ctx.saved_tensors
        ratio = torch.div(weight.float(), scale)
        slope = torch.where(ratio.abs() < 1, ratio.round().sub_(ratio), ratio.sign())  # of s T by s
        grad_scale = (grad_outputs[0] * slope).sum() / slope.numel() ** 0.5
        return grad_outputs[0].to(weight.dtype), (grad_scale * scale).view_as(scale)


def learned_pattern(weight: Tensor, log_scale: Tensor) -> Tensor:
    """A weight whose ternary form by Eq 1 has a learned scale `s` instead of `mean|W|`, and the threshold `s / 2`.

    It is `W' = T s / p`, with `T = clip(round(W / s), -1, 1)` and `p` the share of non-zeros in `T`: its mean magnitude is
    `s`, and it rounds to `T`. So kernels, exporters and other programs that know Eq 1 alone need not know of `s`.

    Args:
        weight: floating point, any shape.
        log_scale: natural logarithm of `s`, (1,).

    Returns:
        float32, the shape of `weight`. The gradient passes to `weight` straight through. That of `log_scale` is LSQ's (arXiv
        1902.08153, Eq 3), with its factor `1 / sqrt(number of weights)`, which keeps it from ruling the gradient's norm.
    """
    return _LearnedPattern.apply(weight, log_scale)


def mean_magnitude(weight: Tensor) -> Tensor:
    """`mean|W|` float32, a scalar, summed in float64: the same whatever the order of the sum, and so on every machine, with
    every number of threads (but for MPS, which has no float64)."""
    wide = torch.float32 if weight.device.type == "mps" else torch.float64
    return (weight.float().abs().sum(dtype=wide) / weight.numel()).float()


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Eq 1: one scale per tensor, `D = mean|W|`, and codes `clip(round(W / (D + eps)), -1, 1)`.

    Args:
        weight: floating point, any shape.

    Returns:
        codes int8 in {-1, 0, 1}, the shape of `weight`; scale `D` float32, a scalar. `Qw(W) = D * codes`.
    """
    weight = weight.float()
    scale = mean_magnitude(weight)
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


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """`Qw(W)` of Eq 1 in the dtype and shape of `weight`; gradient straight through."""
    with torch.no_grad():
        codes, scale = quantize_weight(weight)
        quantized = codes * scale
    return StraightThrough.apply(weight, quantized)


def fake_quantize_activation(x: Tensor) -> Tensor:
    """`Qx(x)` of Eq 2 in the dtype and shape of `x` (..., features); gradient straight through."""
    with torch.no_grad():
        codes, scale = quantize_activation(x)
        quantized = codes * scale
    return StraightThrough.apply(x, quantized)
