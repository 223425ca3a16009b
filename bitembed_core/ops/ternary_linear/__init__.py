"""`Qx(norm(x)) Qw(W)^T + bias`, the layer that a ternary model is made of.

Kernels, by name:
- `reference`: floating-point product of the dequantized factors; runs everywhere. On the CPU `BitEmbedder.encode` takes a
  reference of the whole encoder instead, where it can (`ops/encoder/reference.py`).
- `int8`: exact integer product through `torch._int_mm`, with blocked norm and quantization; CPU.
- `native`: weights at two bits, through the native library (`ops/library.py`), in training too, where torch multiplies if
  the processor has AMX; CPU.
- `triton`: weights at two bits in inference, int8 tensor cores in training too; CUDA (`ops/gpu.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bitembed_core.ops import gpu, library
from bitembed_core.ops.ternary_linear import integer, native, reference
from bitembed_core.ops.ternary_linear.operands import Norm
from bitembed_core.ops.ternary_linear.passes import NATIVE
from bitembed_core.ops.ternary_linear.planar import planar_weight
from bitembed_core.ops.ternary_linear.reference import annealed_linear, unquantized_linear

__all__ = [
    "KERNELS",
    "Norm",
    "TernaryLinearKernel",
    "annealed_linear",
    "select_kernel",
    "unquantized_linear",
]


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


class TwoBits(NamedTuple):
    """Only runs: a weight at two bits, rearranged once for the kernel.

    Args:
        prepare: packed rows uint8 (out, ceil(in / 4)) and `in` -> the kernel's own form of the weight.
        run: x, that form, scale (), bias, norm -> y.
    """

    prepare: Callable[[Tensor, int], Any]
    run: Callable[..., Tensor]


class TernaryLinearKernel(NamedTuple):
    """One implementation of the layer, for both lives of its weight; `two_bits`, where there is one, takes the place of
    `frozen` without gradients."""

    name: str
    latent: Latent
    frozen: Frozen
    two_bits: TwoBits | None = None

    def runs_on(self, device: torch.device) -> bool:
        """Whether this kernel takes tensors on `device`."""
        if self.name == "triton":
            return gpu.runs_on(device)
        return self.name == "reference" or device.type == "cpu"


def _triton(name: str) -> Callable[..., Any]:
    """A function of `ternary_linear/triton.py`, which is imported when it is first called."""

    def call(*arguments: Any) -> Any:
        from bitembed_core.ops.ternary_linear import triton

        return getattr(triton, name)(*arguments)

    return call


KERNELS = {
    "reference": TernaryLinearKernel("reference", reference.ternary_linear, reference.frozen_ternary_linear),
    "int8": TernaryLinearKernel("int8", integer.ternary_linear, integer.frozen_ternary_linear),
    "native": TernaryLinearKernel(
        "native",
        partial(integer.ternary_linear, passes=NATIVE),
        integer.frozen_ternary_linear,
        TwoBits(native.PanelWeight, native.ternary_linear),
    ),
    "triton": TernaryLinearKernel(
        "triton",
        _triton("ternary_linear"),
        _triton("frozen_ternary_linear"),
        TwoBits(planar_weight, _triton("planar_ternary_linear")),
    ),
}


def select_kernel(name: str, device: torch.device | str) -> TernaryLinearKernel:
    """The kernel called `name`; `auto` takes `native` on the CPU (`int8` where it was not built), `triton` on CUDA devices
    (`reference` where Triton is not installed), `reference` elsewhere.

    Raises:
        ValueError: no such kernel, or it does not run on `device` or was not built.
    """
    device = torch.device(device)
    if name == "auto":
        name = _best(device)
    if name not in KERNELS:
        raise ValueError(f"no kernel {name!r}; choose auto, {', '.join(KERNELS)}")
    if name == "triton" and not gpu.runs_on(device):
        needed = "CUDA devices" if gpu.installed() else "CUDA devices and needs the package triton"
        raise ValueError(f"kernel 'triton' runs on {needed}, the model is on {device.type}; use 'auto'")
    if not KERNELS[name].runs_on(device):
        raise ValueError(
            f"kernel {name!r} runs on the CPU only, the model is on {device.type}; use 'reference'"
        )
    if name == "native" and not library.available():
        raise ValueError(
            "the native kernels were not built: install a C++ compiler and bitembed again, or use 'int8'"
        )
    return KERNELS[name]


def _best(device: torch.device) -> str:
    if device.type == "cpu":
        return "native" if library.available() else "int8"
    return "triton" if gpu.automatic(device) else "reference"
