"""The passes around the integer products of a ternary linear in training: in plain torch, or by the native library.

Each reads and writes its tensors once in the library; `rescale` gives the same bits either way, sums over tokens and
features differ in their order.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.norm_quantize.native import norm_quantize
from bitembed_core.ops.ternary_linear import blocked
from bitembed_core.ops.ternary_linear.operands import Norm


class Passes(NamedTuple):
    """One implementation; see `blocked.py` for what each pass computes."""

    quantize: Callable[[Tensor, Norm | None], tuple[Tensor, Tensor, Tensor]]
    rescale: Callable[[Tensor, Tensor, Tensor | None, Tensor], None]
    scale_gradient: Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
    norm_backward: Callable[[Tensor, Tensor, Tensor, Norm], tuple[Tensor, Tensor]]


def rescale(sums_MN: Tensor, scale_M1: Tensor, bias: Tensor | None, y_MN: Tensor) -> None:
    """As `blocked.rescale`."""
    tokens, features = sums_MN.shape
    if y_MN.dtype not in library.FLOATS:
        return blocked.rescale(sums_MN, scale_M1, bias, y_MN)
    bias = None if bias is None else bias.detach().float().contiguous()
    library.native().bitembed_scale_sums(
        library.pointer(sums_MN),
        tokens,
        features,
        library.pointer(scale_M1),
        library.pointer(bias),
        library.pointer(y_MN),
        y_MN.dtype == torch.bfloat16,
        library.threads(),
    )
    return None


def scale_gradient(grad_MN: Tensor, scale_M1: Tensor, with_sum: bool) -> tuple[Tensor, Tensor | None]:
    """As `blocked.scale_gradient`."""
    tokens, features = grad_MN.shape
    if grad_MN.dtype not in library.FLOATS:
        return blocked.scale_gradient(grad_MN, scale_M1, with_sum)
    grad = grad_MN.contiguous()
    scaled = torch.empty_like(grad)
    total = torch.empty(features) if with_sum else None
    library.native().bitembed_scale_gradient(
        library.pointer(grad),
        tokens,
        features,
        library.pointer(scale_M1),
        library.pointer(scaled),
        library.pointer(total),
        grad.dtype == torch.bfloat16,
        library.threads(),
    )
    return scaled, total


def norm_backward(grad_MK: Tensor, x_MK: Tensor, inverse_rms_M1: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """As `blocked.norm_backward`."""
    tokens, features = x_MK.shape
    if x_MK.dtype not in library.FLOATS:
        return blocked.norm_backward(grad_MK, x_MK, inverse_rms_M1, norm)
    grad, x = library.float32_or_bfloat16(grad_MK), x_MK.contiguous()
    gain = norm.gain.detach().float().contiguous()
    grad_x, grad_gain = torch.empty_like(x), torch.empty(features)
    library.native().bitembed_norm_backward(
        library.pointer(grad),
        library.pointer(x),
        tokens,
        features,
        library.pointer(inverse_rms_M1),
        library.pointer(gain),
        library.pointer(grad_x),
        library.pointer(grad_gain),
        grad.dtype == torch.bfloat16,
        x.dtype == torch.bfloat16,
        library.threads(),
    )
    return grad_x, grad_gain


BLOCKED = Passes(blocked.quantize_normalised, blocked.rescale, blocked.scale_gradient, blocked.norm_backward)
NATIVE = Passes(norm_quantize, rescale, scale_gradient, norm_backward)
