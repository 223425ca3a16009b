"""What the implementations of the ternary linear layer have in common besides tensors."""

from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """An RMSNorm before a projection: gain (in,), and the epsilon under its root."""

    gain: Tensor
    eps: float


class Forward(NamedTuple):
    """A forward pass in training: the result y (M, N), and what its gradient needs.

    Args:
        x_codes: int8 (M, K). x_scale: float32 (M, 1). inverse_rms: float32 (M, 1), ones without a norm.
        w_codes: int8 (N, K). w_scale: float32 ().
    """

    y: Tensor
    x_codes: Tensor
    x_scale: Tensor
    inverse_rms: Tensor
    w_codes: Tensor
    w_scale: Tensor
