"""The layer by the native library: weights stay two bits wide, norm and quantization run in the product's own pass.

Integers are those of `integer.py` bit for bit, given the same inverse RMS; its last bit may differ.
"""

from collections.abc import Sequence
from ctypes import c_void_p
from typing import Self

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.quantizers import EPS, mean_magnitude


class Panels:
    """Ternary codes (out, in) in the order in which the kernels read them, two bits each; not filled in yet."""

    def __init__(self, out_features: int, in_features: int) -> None:
        self.out_features, self.in_features = out_features, in_features
        size = library.native().bitembed_panel_bytes(out_features, in_features)
        self.panels = torch.empty(size, dtype=torch.uint8)

    def operand(self, scale: float, bias: Tensor | None, norm: Norm | None) -> library.Linear:
        """What the library takes; `bias` and the norm's gain must be float32. It holds on to the tensors."""
        operand = library.Linear(
            library.pointer(self.panels),
            library.pointer(norm.gain) if norm is not None else None,
            library.pointer(bias),
            self.in_features,
            self.out_features,
            scale,
            norm.eps if norm is not None else 0.0,
        )
        operand.tensors = (self.panels, bias, norm)
        return operand


class LatentWeight(Panels):
    """The panels of a latent weight, and its int8 `codes` (out, in)."""

    def __init__(self, weight_NK: Tensor, scale: Tensor) -> None:
        super().__init__(*weight_NK.shape)
        weight = weight_NK.detach().float().contiguous()
        self.codes = torch.empty(weight.shape, dtype=torch.int8)
        library.native().bitembed_ternary_panels(
            library.pointer(weight),
            *weight.shape,
            float(scale + EPS),
            library.pointer(self.codes),
            library.pointer(self.panels),
            library.threads(),
        )

    @classmethod
    def quantized(cls, weight_NK: Tensor) -> tuple[Self, Tensor]:
        """Eq 1: the weight, and its scale (); both equal `quantizers.quantize_weight`."""
        scale = mean_magnitude(weight_NK.detach())
        return cls(weight_NK, scale), scale


class PanelWeight(Panels):
    """A packed weight (out, in) in the order in which the kernels read it.

    Args:
        packed: uint8 (out, ceil(in / 4)), as in `ternary_packing`.
        in_features: columns of the weight.

    Raises:
        ValueError: a field is 3, which is no ternary code.
    """

    def __init__(self, packed: Tensor, in_features: int) -> None:
        super().__init__(packed.shape[0], in_features)
        packed = packed.contiguous()
        arguments = (packed.data_ptr(), self.out_features, in_features, self.panels.data_ptr())
        if library.native().bitembed_pack_panels(*arguments, library.threads()):
            raise ValueError(
                "a packed weight has a field of value 3, which is no ternary code: it is damaged"
            )


def ternary_linear(
    x: Tensor, weight: PanelWeight, scale: Tensor, bias: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """As `reference.frozen_ternary_linear`; x (..., in) -> (..., out), float32 or bfloat16 as x is."""
    operand = weight.operand(float(scale), float_or_none(bias), float_norm(norm))
    return ternary_linears(x, [operand])[0]


def ternary_linears(x: Tensor, operands: Sequence[library.Linear]) -> list[Tensor]:
    """Several projections of one input x (..., in), read and normalised once."""
    x_MK = x.detach().flatten(0, -2).float().contiguous()
    narrow = x.dtype == torch.bfloat16
    dtype = torch.bfloat16 if narrow else torch.float32
    ys = [torch.empty(x_MK.shape[0], operand.out_features, dtype=dtype) for operand in operands]
    library.native().bitembed_linears(
        x_MK.data_ptr(),
        x_MK.shape[0],
        (library.Linear * len(operands))(*operands),
        len(operands),
        (c_void_p * len(operands))(*[y.data_ptr() for y in ys]),
        int(narrow),
        library.threads(),
    )
    return [y.unflatten(0, x.shape[:-1]).to(x.dtype) for y in ys]


def float_or_none(tensor: Tensor | None) -> Tensor | None:
    """`tensor` as contiguous float32."""
    return None if tensor is None else tensor.detach().float().contiguous()


def float_norm(norm: Norm | None) -> Norm | None:
    """`norm` with a contiguous float32 gain."""
    return None if norm is None else Norm(norm.gain.detach().float().contiguous(), norm.eps)
