"""The ternary linear map in plain floating point: the equation, and what every other implementation is tested against."""

from torch import Tensor
from torch.nn import functional as F

from bitembed_core.quantizers import fake_quantize_activation, fake_quantize_weight


def ternary_linear(x: Tensor, weight: Tensor) -> Tensor:
    """`Qx(x) Qw(W)^T` with straight-through gradients to both.

    Args:
        x: (..., in), any float dtype; normalised already where the layer has a norm.
        weight: latent weight (out, in).

    Returns:
        (..., out) in the dtype `F.linear` would give (autocast included).
    """
    return F.linear(fake_quantize_activation(x), fake_quantize_weight(weight))


def frozen_ternary_linear(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`Qx(x) (scale * codes)^T` for a weight that is already ternary: codes int8 (out, in), scale a scalar."""
    return F.linear(fake_quantize_activation(x), codes * scale)
