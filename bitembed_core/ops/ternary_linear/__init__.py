"""`Qx(norm(x)) Qw(W)^T + bias`, the layer that a ternary model is made of.

Kernels, by name:
- `reference`: floating-point product of the dequantized factors; runs everywhere.
- `int8`: exact integer product through `torch._int_mm`, with blocked norm and quantization; CPU.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bitembed_core.ops.ternary_linear import integer, reference
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


class TernaryLinearKernel(NamedTuple):
    """One implementation of the layer, for both lives of its weight."""

    name: str
    latent: Latent
    frozen: Frozen

    def runs_on(self, device: torch.device) -> bool:
        """Whether this kernel takes tensors on `device`."""
        return self.name != "int8" or device.type == "cpu"


KERNELS = {
    "reference": TernaryLinearKernel("reference", reference.ternary_linear, reference.frozen_ternary_linear),
    "int8": TernaryLinearKernel("int8", integer.ternary_linear, integer.frozen_ternary_linear),
}


def select_kernel(name: str, device: torch.device | str) -> TernaryLinearKernel:
    """The kernel called `name`; `auto` takes `int8` on the CPU and `reference` elsewhere.

    Raises:
        ValueError: no such kernel, or it does not run on `device`.
    """
    device_type = torch.device(device).type
    if name == "auto":
        name = "int8" if device_type == "cpu" else "reference"
    if name not in KERNELS:
        raise ValueError(f"no kernel {name!r}; choose auto, {', '.join(KERNELS)}")
    if not KERNELS[name].runs_on(torch.device(device)):
        raise ValueError(
            f"kernel 'int8' runs on the CPU only, the model is on {device_type}; use 'reference'"
        )
    return KERNELS[name]
