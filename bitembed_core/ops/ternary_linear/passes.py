"""A ternary linear in training, but for the products of its gradient: in plain torch, or by the native library.

The library reads and writes each tensor once. Codes are the same either way, given the same inverse RMS; sums over tokens
and features differ in their order.
"""

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.norm_quantize.native import norm_quantize
from bitembed_core.ops.ternary_linear import blocked
from bitembed_core.ops.ternary_linear.native import LatentWeight, float_norm, float_or_none
from bitembed_core.ops.ternary_linear.operands import Forward, Norm
from bitembed_core.quantizers import quantize_weight


class Passes(NamedTuple):
    """One implementation; see `blocked.py` for what each pass computes."""

    forward: Callable[[Tensor, Tensor, Tensor | None, Norm | None, torch.dtype], Forward]
    scale_gradient: Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
    norm_backward: Callable[[Tensor, Tensor, Tensor, Norm], tuple[Tensor, Tensor]]


def torch_multiplies_faster() -> bool:
    """Whether torch multiplies int8 by AMX and the library does not."""
    return library.isa() != "amx_int8" and bool(torch.cpu.get_capabilities().get("amx_int8"))


def forward(
    x_MK: Tensor, weight_NK: Tensor, bias: Tensor | None, norm: Norm | None, dtype: torch.dtype
) -> Forward:
    """As `blocked.forward`."""
    bias, norm = float_or_none(bias), float_norm(norm)
    y_dtype = dtype if dtype in library.FLOATS else torch.float32
    way = _by_torch if torch_multiplies_faster() else _in_one_pass
    found = way(x_MK, weight_NK, bias, norm, y_dtype)
    return found._replace(y=found.y.to(dtype))


def _in_one_pass(
    x_MK: Tensor, weight_NK: Tensor, bias: Tensor | None, norm: Norm | None, dtype: torch.dtype
) -> Forward:
    tokens, features = x_MK.shape
    x = library.float32_or_bfloat16(x_MK)
    weight, w_scale = LatentWeight.quantized(weight_NK)
    codes = torch.empty(tokens, features, dtype=torch.int8)
    scale, inverse_rms = torch.empty(tokens, 1), torch.empty(tokens, 1)
    y = torch.empty(tokens, weight.out_features, dtype=dtype)
    library.native().bitembed_latent_linear(
        library.pointer(x),
        tokens,
        ctypes.byref(weight.operand(float(w_scale), bias, norm)),
        library.pointer(codes),
        library.pointer(scale),
        library.pointer(inverse_rms),
        library.pointer(y),
        x.dtype == torch.bfloat16,
        y.dtype == torch.bfloat16,
        library.threads(),
    )
    return Forward(y, codes, scale, inverse_rms, weight.codes, w_scale)


def _by_torch(
    x_MK: Tensor, weight_NK: Tensor, bias: Tensor | None, norm: Norm | None, dtype: torch.dtype
) -> Forward:
    x_codes, x_scale, inverse_rms = norm_quantize(x_MK, norm)
    w_codes, w_scale = quantize_weight(weight_NK)
    y = blocked.scaled_product(x_codes, w_codes, x_scale * w_scale, bias, dtype, rescale)
    return Forward(y, x_codes, x_scale, inverse_rms, w_codes, w_scale)


def rescale(sums_MN: Tensor, scale_M1: Tensor, bias: Tensor | None, y_MN: Tensor) -> None:
    """As `blocked.rescale`, of float32 bias and into one of `library.FLOATS`."""
    library.native().bitembed_scale_sums(
        library.pointer(sums_MN),
        *sums_MN.shape,
        library.pointer(scale_M1),
        library.pointer(bias),
        library.pointer(y_MN),
        y_MN.dtype == torch.bfloat16,
        library.threads(),
    )


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


BLOCKED = Passes(blocked.forward, blocked.scale_gradient, blocked.norm_backward)
NATIVE = Passes(forward, scale_gradient, norm_backward)
