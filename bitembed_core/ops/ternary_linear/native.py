"""The layer by the native library: weights stay two bits wide, norm and quantization run in the product's own pass.

Integers are those of `integer.py` bit for bit, given the same inverse RMS; its last bit may differ.
"""

from collections.abc import Sequence
from ctypes import c_void_p

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear.operands import Norm


class PanelWeight:
    """A ternary weight (out, in) in the order in which the kernels read it: 2 bits a weight.

    Args:
        packed: uint8 (out, ceil(in / 4)), as in `ternary_packing`.
        in_features: columns of the weight.

    Raises:
        ValueError: a field is 3, which is no ternary code.
    """

    def __init__(self, packed: Tensor, in_features: int) -> None:
        native = library.native()
        self.out_features, self.in_features = packed.shape[0], in_features
        size = native.bitembed_panel_bytes(self.out_features, in_features)
        self.panels = torch.empty(size, dtype=torch.uint8)
        packed = packed.contiguous()
        arguments = (packed.data_ptr(), self.out_features, in_features, self.panels.data_ptr())
        if native.bitembed_pack_panels(*arguments, library.threads()):
            raise ValueError(
                "a packed weight has a field of value 3, which is no ternary code: it is damaged"
            )

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
