"""A whole ternary encoder at once, natively on the CPU or fused on CUDA.

References are the transformers model itself, up to the order of its sums, and `ReferenceEncoder`, which has the native
encoder's order and so its bits.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel

from bitembed_core.ops import gpu
from bitembed_core.ops.encoder.architecture import NotDescribed, describe
from bitembed_core.ops.encoder.native import NativeEncoder
from bitembed_core.ops.encoder.reference import ReferenceEncoder
from bitembed_core.pooling import PoolingMode

__all__ = ["NativeEncoder", "NotDescribed", "OwnEncoder", "ReferenceEncoder", "describe", "own_encoder"]


class OwnEncoder(Protocol):
    """A model in a kernel's own form. It takes texts of all lengths together without padding, `token_budget` at a time."""

    token_budget: int

    def is_current(self, pooling: PoolingMode) -> bool: ...

    def encode(self, ids: Sequence[Sequence[int]]) -> Tensor: ...


def own_encoder(kernel: str, model: PreTrainedModel, pooling: PoolingMode) -> OwnEncoder | None:
    """`model` in the form of its ternary kernel, None where that has none.

    Raises:
        NotDescribed: the model has something that the kernel's encoder does not compute.
    """
    if kernel == "native" and model.device.type == "cpu":
        return NativeEncoder(model, pooling)
    if kernel == "reference" and model.device.type == "cpu":
        return ReferenceEncoder(model, pooling)
    if kernel == "triton" and gpu.runs_on(model.device):
        from bitembed_core.ops.encoder.fused import FusedEncoder

        return FusedEncoder(model, pooling)
    return None
