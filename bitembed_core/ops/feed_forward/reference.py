"""The feed-forward network as the model's modules compute it."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from bitembed_core.bitlinear import BitLinear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
}


def feed_forward(
    x: Tensor, gate: BitLinear | None, up: BitLinear, down: BitLinear, activation: str
) -> Tensor:
    """x (..., in) -> (..., out of down); without `gate`, `down(activation(up(x)))`."""
    act = ACTIVATIONS[activation]
    return down(act(up(x)) if gate is None else act(gate(x)) * up(x))
