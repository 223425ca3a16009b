"""Query, key and value states of one attention layer, captured while the model runs its fast attention.

Relation distillation (Eq 8) needs the projected states, not the attention matrix, so nothing has to fall back to eager
attention: a registered attention function hands the states over and then calls scaled-dot-product attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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
    """Where the states of the chosen layer arrive; `states` is filled by the model's forward."""

    layer: int
    and_stop: bool = False
    received: AttentionStates | None = None

    @property
    def states(self) -> AttentionStates:
        if self.received is None:
            raise RuntimeError(f"no forward ran inside the block, or layer {self.layer} was not reached")
        return self.received


class _Received(Exception):
    """Ends a forward whose states have arrived."""


_active: ContextVar[Capture | None] = ContextVar("active_capture", default=None)


def _capturing_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    capture = _active.get()
    if capture is not None and getattr(module, "layer_idx", None) == capture.layer:
        capture.received = AttentionStates(query, key, value)
        if capture.and_stop:
            raise _Received
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(CAPTURING_ATTENTION, _capturing_attention)
# Without its own entry here the padding mask would silently be dropped for a custom attention function.
AttentionMaskInterface.register(CAPTURING_ATTENTION, sdpa_mask)


@contextmanager
def capture_attention_states(
    model: PreTrainedModel, layer: int, *, and_stop: bool = False
) -> Iterator[Capture]:
    """Within the block, the model's forward leaves the states of attention layer `layer` (0-based) in `.states`.

    The states are part of the autograd graph. The model's attention implementation is restored on exit.

    Args:
        and_stop: end the forward, and the block with it, when they are there; the rest of the model does not run.

    Raises:
        ValueError: the model has no such layer.
    """
    layers = model.config.num_hidden_layers
    if not 0 <= layer < layers:
        raise ValueError(f"layer {layer} does not exist; the model has attention layers 0 to {layers - 1}")
    before = model.config._attn_implementation
    capture = Capture(layer, and_stop)
    model.set_attn_implementation(CAPTURING_ATTENTION)
    token = _active.set(capture)
    try:
        yield capture
    except _Received:
        pass
    finally:
        _active.reset(token)
        model.set_attn_implementation(before)
