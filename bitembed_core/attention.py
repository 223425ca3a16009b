"""Query, key and value states of attention layers, captured while the model runs its fast attention.

Relation distillation (Eq 8) needs the projected states, not the attention matrix, so nothing has to fall back to eager
attention: a registered attention function hands the states over and then calls scaled-dot-product attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

CAPTURING_ATTENTION = "bitembed_capturing_sdpa"


class AttentionStates(NamedTuple):
    """States of one layer after QK normalisation and rotary embedding, before KV heads are repeated."""

    queries: Tensor  # (B, H, T, head_dim)
    keys: Tensor  # (B, KV heads, T, head_dim)
    values: Tensor  # (B, KV heads, T, head_dim)


@dataclass
class Capture:
    """Where the states of the chosen layers arrive; the model's forward fills it."""

    layers: tuple[int, ...]
    and_stop: bool = False
    received: dict[int, AttentionStates] = field(default_factory=dict)

    @property
    def states(self) -> AttentionStates:
        """The states of the layer, where a single one was chosen."""
        (states,) = self.by_layer
        return states

    @property
    def by_layer(self) -> list[AttentionStates]:
        """The states of every chosen layer, in the order in which they were chosen."""
        missing = [layer for layer in self.layers if layer not in self.received]
        if missing:
            raise RuntimeError(f"no forward ran inside the block, or layer {missing[0]} was not reached")
        return [self.received[layer] for layer in self.layers]


class _Received(Exception):
    """Ends a forward whose states have arrived."""


_active: ContextVar[Capture | None] = ContextVar("active_capture", default=None)


def _capturing_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    capture = _active.get()
    layer = getattr(module, "layer_idx", None)
    if capture is not None and layer in capture.layers:
        capture.received[layer] = AttentionStates(query, key, value)
        if capture.and_stop and layer == max(capture.layers):
            raise _Received
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(CAPTURING_ATTENTION, _capturing_attention)
# Without its own entry here the padding mask would silently be dropped for a custom attention function.
AttentionMaskInterface.register(CAPTURING_ATTENTION, sdpa_mask)


@contextmanager
def capture_attention_states(
    model: PreTrainedModel, *layers: int, and_stop: bool = False
) -> Iterator[Capture]:
    """Within the block, the model's forward leaves the states of the attention layers `layers` (0-based).

    They are in `.by_layer`, those of a single layer in `.states` too.

    The states are part of the autograd graph. The model's attention implementation is restored on exit.

    Args:
        and_stop: end the forward, and the block with it, when they are there; the rest of the model does not run.

    Raises:
        ValueError: the model has no such layer.
    """
    depth = model.config.num_hidden_layers
    for layer in layers:
        if not 0 <= layer < depth:
            raise ValueError(f"layer {layer} does not exist; the model has attention layers 0 to {depth - 1}")
    before = model.config._attn_implementation
    capture = Capture(layers, and_stop)
    model.set_attn_implementation(CAPTURING_ATTENTION)
    token = _active.set(capture)
    try:
        yield capture
    except _Received:
        pass
    finally:
        _active.reset(token)
        model.set_attn_implementation(before)
