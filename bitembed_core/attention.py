"""Query, key and value states of attention layers, captured while the model runs its fast attention.

Relation distillation (Eq 8) needs the projected states, not the attention matrix, so nothing has to fall back to eager
attention: a registered attention function hands the states over and then calls scaled-dot-product attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
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
    received: dict[int, list[AttentionStates]] = field(default_factory=dict)

    @property
    def states(self) -> AttentionStates:
        """The states of the layer, where a single one was chosen."""
        (states,) = self.by_layer
        return states

    @property
    def by_layer(self) -> list[AttentionStates]:
        """The states of every chosen layer, in the order in which they were chosen."""
        return [states for (states,) in self.by_layer_and_group]

    @property
    def by_layer_and_group(self) -> list[list[AttentionStates]]:
        """As `by_layer`, each for one group of texts after the other (`packed_attention`)."""
        missing = [layer for layer in self.layers if layer not in self.received]
        if missing:
            raise RuntimeError(
                f"no forward ran inside the block, or layer {missing[0]} was not reached, or the attention of this "
                "architecture does not tell its layer (DistilBERT, MPNet): then its relations cannot be used"
            )
        return [self.received[layer] for layer in self.layers]

    def receive(self, module: nn.Module, groups: list[AttentionStates]) -> None:
        """Keep the states that the attention `module` works on, if it is of a chosen layer."""
        layer = getattr(module, "layer_idx", None)
        if layer is None or layer not in self.layers:
            return
        self.received[layer] = groups
        if self.and_stop and layer == max(self.layers):
            raise _Received


class _Received(Exception):
    """Ends a forward whose states have arrived."""


_active: ContextVar[Capture | None] = ContextVar("active_capture", default=None)


def _capturing_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    hand_over(module, [AttentionStates(query, key, value)])
    return attend(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(CAPTURING_ATTENTION, _capturing_attention)
# Without its own entry here the padding mask would silently be dropped for a custom attention function.
AttentionMaskInterface.register(CAPTURING_ATTENTION, sdpa_mask)


def hand_over(module: nn.Module, groups: list[AttentionStates]) -> None:
    """Give the states of one layer, for each group of texts, to the block that captures them, if there is one."""
    capture = _active.get()
    if capture is not None:
        capture.receive(module, groups)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Scaled-dot-product attention, in float32 where torch is slow in bfloat16: in its backward pass on CPUs.

    Forward and backward of 768 heads of width 32 and 32 tokens, torch 2.13 with AMX: 9 ms in float32, 58 ms in bfloat16,
    16 ms in bfloat16 as plain matrix products; of 192 heads and 128 tokens 19, 76 and 31 ms.
    """
    rounded = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    if not (query.is_cpu and rounded and query.requires_grad):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.bfloat16(), None


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
    with capturing(model, CAPTURING_ATTENTION, layers, and_stop) as capture:
        yield capture


@contextmanager
def capturing(
    model: PreTrainedModel, attention: str, layers: tuple[int, ...], and_stop: bool
) -> Iterator[Capture]:
    """`capture_attention_states` for any registered function `attention` that hands its states over."""
    depth = model.config.num_hidden_layers
    for layer in layers:
        if not 0 <= layer < depth:
            raise ValueError(f"layer {layer} does not exist; the model has attention layers 0 to {depth - 1}")
    capture = Capture(layers, and_stop)
    token = _active.set(capture)
    try:
        with using_attention(model, attention):
            yield capture
    except _Received:
        pass
    finally:
        _active.reset(token)


@contextmanager
def using_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within the block, `model` runs the registered attention function `name`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
