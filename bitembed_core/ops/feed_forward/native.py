"""The feed-forward network in one pass: neither the gate's nor the up projection's output is ever stored whole."""

import ctypes

import torch
from torch import Tensor

from bitembed_core.bitlinear import BitLinear
from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear import KERNELS, Norm
from bitembed_core.ops.ternary_linear.native import float_norm, float_or_none


def feed_forward(
    x: Tensor, gate: BitLinear | None, up: BitLinear, down: BitLinear, activation: str
) -> Tensor:
    """As `reference.feed_forward`, float32, without gradients."""
    x_MK = x.detach().float().flatten(0, -2).contiguous()
    y_MN = torch.empty(x_MK.shape[0], down.out_features)
    kept: list[object] = []  # what the operands point to

    def operand(linear: BitLinear) -> object:
        weight, scale = linear.two_bits(KERNELS["native"])
        norm = None if linear.norm is None else float_norm(Norm(linear.norm.weight, linear.norm.eps))
        bias = float_or_none(linear.bias)
        kept.append((weight, norm, bias))
        return ctypes.pointer(weight.operand(float(scale), bias, norm))

    library.native().bitembed_feed_forward(
        x_MK.data_ptr(),
        x_MK.shape[0],
        None if gate is None else operand(gate),
        operand(up),
        operand(down),
        library.ACTIVATIONS[activation],
        y_MN.data_ptr(),
        library.threads(),
    )
    return y_MN.unflatten(0, x.shape[:-1])
