"""`Qx(norm(x)) Qw(W)^T + bias`, the layer that a ternary model is made of.

Kernels, by name:
- `reference`: floating-point product of the dequantized factors; runs everywhere.
- `int8`: exact integer product through `torch._int_mm`, with blocked norm and quantization; CPU.
- `native`: weights at two bits, through the native library (`ops/library.py`); training uses the product of `int8`; CPU.
"""

from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.norm_quantize.native import norm_quantize
from bitembed_core.ops.ternary_linear import integer, native, reference
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.ops.ternary_linear.reference import unquantized_linear

__all__ = ["KERNELS", "Norm", "TernaryLinearKernel", "select_kernel", "unquantized_linear"]


class Latent(Protocol):
    """Trains: a floating-point weight (out, in) that is quantized on the way."""

    def __call__(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None
    ) -> Tensor: ...


class Frozen(Protocol):
    """Only runs: int8 codes (out, in) and their scale ()."""

    def __call__(
        self, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None = None, norm: Norm | None = None
    ) -> Tensor: ...


class Panels(Protocol):
    """Only runs: a weight in the native kernels' order, and its scale ()."""

    def __call__(
        self,
        x: Tensor,
        weight: native.PanelWeight,
        scale: Tensor,
        bias: Tensor | None = None,
        norm: Norm | None = None,
    ) -> Tensor: ...


class TernaryLinearKernel(NamedTuple):
    """One implementation of the layer, for both lives of its weight; `panels`, where there is one, takes the place of
    `frozen` without gradients."""

    name: str
    latent: Latent
    frozen: Frozen
    panels: Panels | None = None

    def runs_on(self, device: torch.device) -> bool:
        """Whether this kernel takes tensors on `device`."""
        return self.name == "reference" or device.type == "cpu"


KERNELS = {
    "reference": TernaryLinearKernel("reference", reference.ternary_linear, reference.frozen_ternary_linear),
    "int8": TernaryLinearKernel("int8", integer.ternary_linear, integer.frozen_ternary_linear),
    "native": TernaryLinearKernel(
        "native",
        partial(integer.ternary_linear, quantize=norm_quantize),
        partial(integer.frozen_ternary_linear, quantize=norm_quantize),
        native.ternary_linear,
    ),
}


def select_kernel(name: str, device: torch.device | str) -> TernaryLinearKernel:
    """The kernel called `name`; `auto` takes `native` on the CPU, `int8` where it was not built, `reference` elsewhere.

    Raises:
        ValueError: no such kernel, or it does not run on `device` or was not built.
    """
    device_type = torch.device(device).type
    if name == "auto":
        name = "reference" if device_type != "cpu" else "native" if library.available() else "int8"
    if name not in KERNELS:
        raise ValueError(f"no kernel {name!r}; choose auto, {', '.join(KERNELS)}")
    if not KERNELS[name].runs_on(torch.device(device)):
        raise ValueError(
            f"kernel {name!r} runs on the CPU only, the model is on {device_type}; use 'reference'"
        )
    if name == "native" and not library.available():
        raise ValueError(
            "the native kernels were not built: install a C++ compiler and bitembed again, or use 'int8'"
        )
    return KERNELS[name]
