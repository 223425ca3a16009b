"""`Qx(x) Qw(W)^T`, the one matrix product of a ternary model.

Kernels, by name:
- `reference`: floating-point product of the dequantized factors; runs everywhere.
- `int8`: exact integer product through `torch._int_mm`; CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bitembed_core.ops.ternary_linear import integer, reference


class TernaryLinearKernel(NamedTuple):
    """One implementation: `latent(x, weight)` trains, `frozen(x, codes, scale)` only runs."""

    name: str
    latent: Callable[[Tensor, Tensor], Tensor]
    frozen: Callable[[Tensor, Tensor, Tensor], Tensor]


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
    if name == "int8" and device_type != "cpu":
        raise ValueError(
            f"kernel 'int8' runs on the CPU only, the model is on {device_type}; use 'reference'"
        )
    return KERNELS[name]
