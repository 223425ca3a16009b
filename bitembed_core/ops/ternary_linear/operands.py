"""What the implementations of the ternary linear layer have in common besides tensors."""

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """An RMSNorm before a projection: gain (in,), and the epsilon under its root."""

    gain: Tensor
    eps: float
