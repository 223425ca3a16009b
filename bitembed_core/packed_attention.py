"""Texts of different lengths through a model in one forward, one after the other and without padding.

Linears, norms and embedding tables work on each token by itself; only attention has to know where a text ends. So the
model sees the tokens of all texts as one long row, with positions that begin anew in each text, and a registered attention
function takes them apart: into groups of texts of about one length, each padded to its longest.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bitembed_core.attention import AttentionStates, Capture, attend, capturing, hand_over

PACKED_ATTENTION = "bitembed_packed_sdpa"
# Architectures whose positions reach them as `position_ids` alone, counted from 0 or from behind the padding token.
FROM_ZERO = frozenset(
    [
        "bert",
        "electra",
        "gemma",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
    ]
)
FROM_PADDING = frozenset(["camembert", "roberta", "xlm-roberta"])


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `packed_attention` is for models like this."""
    return model.config.model_type in FROM_ZERO | FROM_PADDING


class TextGroup:
    """Texts (B, T) with padding, and their n tokens without it."""

    def __init__(self, mask_BT: Tensor) -> None:
        self.mask_BT = mask_BT.bool()
        self.is_padded = not bool(self.mask_BT.all())
        self.tokens = int(self.mask_BT.sum())
        if self.is_padded:
            flat = self.mask_BT.flatten()
            self.places_n = flat.nonzero().squeeze(1)
            # Padding repeats a token next to it: finite values, that no mask lets through.
            self.sources_BT = (flat.cumsum(0) - 1).clamp(min=0)

    def padded(self, x_nD: Tensor) -> Tensor:
        """(n, ...) to (B, T, ...); what stands in padding means nothing and gives no gradient."""
        if self.is_padded:
            x_nD = _Padded.apply(x_nD, self.sources_BT, self.places_n)
        return x_nD.unflatten(0, self.mask_BT.shape)

    def without_padding(self, x_BTD: Tensor) -> Tensor:
        """(B, T, ...) to (n, ...)."""
        flat = x_BTD.flatten(0, 1)
        return _WithoutPadding.apply(flat, self.places_n) if self.is_padded else flat


class _Padded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_nD: Tensor, sources: Tensor, places_n: Tensor) -> Tensor:
        ctx.save_for_backward(places_n)
        return x_nD.index_select(0, sources)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (places_n,) = ctx.saved_tensors
        return grad_outputs[0].index_select(0, places_n), None, None


class _WithoutPadding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places_n: Tensor) -> Tensor:
        ctx.save_for_backward(places_n)
        ctx.rows = len(x)
        return x.index_select(0, places_n)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad_nD,) = grad_outputs
        (places_n,) = ctx.saved_tensors
        return grad_nD.new_zeros(ctx.rows, *grad_nD.shape[1:]).index_copy_(0, places_n, grad_nD), None


class PackedTexts:
    """Texts of several groups as one row of N tokens for `model`.

    Args:
        groups: `input_ids` and `attention_mask` (B, T) of each.
    """

    def __init__(self, model: PreTrainedModel, groups: Sequence[Mapping[str, Tensor]]) -> None:
        first = model.config.pad_token_id + 1 if model.config.model_type in FROM_PADDING else 0
        self.groups = [TextGroup(group["attention_mask"]) for group in groups]
        pairs = list(zip(groups, self.groups, strict=True))
        ids_N = torch.cat([texts["input_ids"][group.mask_BT] for texts, group in pairs])
        positions_N = (
            torch.cat([(group.mask_BT.cumsum(1) - 1)[group.mask_BT] for group in self.groups]) + first
        )
        self.inputs = {
            "input_ids": ids_N[None],
            "position_ids": positions_N[None],
            "attention_mask": torch.ones_like(ids_N)[None],
        }

    def split(self, x_ND: Tensor) -> list[Tensor]:
        """Values (N, ...) of the tokens as (B, T, ...) of each group."""
        parts = x_ND.split([group.tokens for group in self.groups])
        return [group.padded(part) for group, part in zip(self.groups, parts, strict=True)]

    def join(self, x_BTD: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""
        return torch.cat(
            [group.without_padding(part) for group, part in zip(self.groups, x_BTD, strict=True)]
        )


class PackedMasks:
    """What the model hands to its attention layers in place of a mask: the texts, and the mask of each group."""

    def __init__(self, texts: PackedTexts, masks: list[Tensor | None]) -> None:
        self.texts, self.masks = texts, masks


_texts: ContextVar[PackedTexts] = ContextVar("packed_texts")


def _packed_masks(*, batch_size: int, q_length: int, kv_length: int, **kwargs: Any) -> PackedMasks:
    """The masks that `sdpa_mask` makes of the model's pattern (causal, sliding, ...) for each group by itself."""
    masks = []
    texts = _texts.get()
    for group in texts.groups:
        B, T = group.mask_BT.shape
        own = {"batch_size": B, "q_length": T, "kv_length": T, "attention_mask": group.mask_BT}
        masks.append(sdpa_mask(**(kwargs | own)))
    return PackedMasks(texts, masks)


def _packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: PackedMasks, **kwargs: Any
) -> tuple[Tensor, None]:
    texts = attention_mask.texts
    split = [texts.split(states[0].transpose(0, 1)) for states in (query, key, value)]  # (B, T, H, head_dim)
    groups = [AttentionStates(*(x.transpose(1, 2) for x in states)) for states in zip(*split, strict=True)]
    hand_over(module, groups)
    outputs = [
        attend(module, *states, mask, **kwargs)[0]
        for states, mask in zip(groups, attention_mask.masks, strict=True)
    ]
    return texts.join(outputs)[None], None


AttentionInterface.register(PACKED_ATTENTION, _packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _packed_masks)


@contextmanager
def packed_attention(
    model: PreTrainedModel, texts: PackedTexts, *layers: int, and_stop: bool = False
) -> Iterator[Capture]:
    """Within the block, the model's forward is of `texts.inputs`; it leaves the states of the attention layers `layers`.

    They are in `.by_layer_and_group`. Everything else is as in `capture_attention_states`.
    """
    token = _texts.set(texts)
    try:
        with capturing(model, PACKED_ATTENTION, layers, and_stop) as capture:
            yield capture
    finally:
        _texts.reset(token)
