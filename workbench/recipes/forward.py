"""All the texts of a step through the model, in the arithmetic asked for, without much padding."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from bitembed_core import BitEmbedder
from bitembed_core.attention import AttentionStates, capture_attention_states, using_attention
from bitembed_core.losses import EmbeddingBatch
from bitembed_core.packed_attention import PackedTexts, can_pack, packed_attention
from bitembed_core.tokenization import padded_length
from workbench.recipes.batches import ExampleBatch
from workbench.recipes.distributed import largest_over_processes

Tokens = dict[str, Tensor]
SHORTEST_GROUP = 8  # tokens
# Tokens, with padding, that a pass through the model should have. On an H100 a step of 8,192 tokens in floating point took
# 7 ms a layer of Qwen3-0.6B, and of Gemma-3-270M with a quarter of the weights (gpu_training_h100.json): launches take them.
FEWEST_AT_ONCE = {"cuda": 32_768}


@dataclass(frozen=True)
class Embedded:
    """Embeddings of the texts of a batch.

    If an attention layer was asked for, `states` has its states for one group of texts after the other, and
    `masks` their attention masks.
    """

    batch: EmbeddingBatch
    states: Sequence[AttentionStates]
    masks: Sequence[Tensor]


class Encoder(nn.Module):
    """A BitEmbedder as a module whose `forward` is all that training calls in a step, so it can be wrapped."""

    def __init__(self, embedder: BitEmbedder, layer: int | None) -> None:
        super().__init__()
        self.model = embedder.model
        self.embedder = embedder
        self.layer = layer
        self._no_split_modules = embedder.model._no_split_modules  # the units of shards

    def forward(self, groups: Sequence[Tokens]) -> tuple[Tensor, list[AttentionStates]]:
        """Embeddings (N, d) of the texts of all groups, and for each group the states of the chosen layer."""
        layers = () if self.layer is None else (self.layer,)
        if not can_pack(self.model):
            embeddings, states = [], []
            for tokens in groups:
                if not layers and self.model.config._attn_implementation != "sdpa":
                    embeddings.append(self.embedder.embed(tokens))
                    continue
                with capture_attention_states(self.model, *layers) as capture:
                    embeddings.append(self.embedder.embed(tokens))
                states += capture.by_layer
            return torch.cat(embeddings), states
        texts = PackedTexts(self.model, groups)
        with packed_attention(self.model, texts, *layers) as capture:
            token_states_ND = self.embedder.token_states(texts.inputs)[0]
        embeddings = [
            self.embedder.pooled(states_BTD, group.mask_BT)
            for states_BTD, group in zip(texts.split(token_states_ND), texts.groups, strict=True)
        ]
        return torch.cat(embeddings), [states for layer in capture.by_layer_and_group for states in layer]

    def states(self, groups: Sequence[Tokens]) -> list[AttentionStates]:
        """The states alone; layers above theirs do not run."""
        assert self.layer is not None
        if not can_pack(self.model):
            states = []
            for tokens in groups:
                with capture_attention_states(self.model, self.layer, and_stop=True) as capture:
                    self.embedder.token_states(tokens)
                states.append(capture.states)
            return states
        texts = PackedTexts(self.model, groups)
        with packed_attention(self.model, texts, self.layer, and_stop=True) as capture:
            self.embedder.token_states(texts.inputs)
        return capture.by_layer_and_group[0]


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Let every layer of `model` keep only its input, and run again in the backward pass for what that needs of it.

    Gradients are the same to the last bit. Attention states that are captured on the way stay as they are. Only the
    layers' own training flag is set, by which transformers goes; what is in them stays without dropout.
    """
    contexts = partial(_same_attention, model)
    recomputed = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}
    model.activation_checkpointing_enable(recomputed)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _same_attention(
    model: PreTrainedModel,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's forward and of its recomputation, which is outside of the block that chose the attention."""
    return nullcontext(), using_attention(model, model.config._attn_implementation)


def tokenize_batch(embedder: BitEmbedder, batch: ExampleBatch, max_length: int) -> Tokens:
    """Tokens (N, T) of all queries, all positives, and the hard negatives query by query: N = B (2 + K)."""
    query_prompt, document_prompt = (embedder.prompts.get(side, "") for side in ("query", "document"))
    texts = [query_prompt + text for text in batch.queries]
    texts += [document_prompt + text for text in batch.positives]
    texts += [document_prompt + text for negatives in batch.negatives for text in negatives]
    return embedder.tokenize(texts, max_length=min(max_length, embedder.max_length))


def embed_batch(
    encoder: nn.Module, tokens: Tokens, size: int, dtype: torch.dtype, at_least: int = 1
) -> Embedded:
    """Run `encoder`, an `Encoder` perhaps wrapped, over what `tokenize_batch` made of `size` examples, in `at_least` so many
    groups of texts."""
    rows, groups = group_by_length(tokens, at_least=at_least)
    with autocast(tokens["input_ids"].device, dtype):
        grouped_ND, states = encoder(groups)
    batch = as_batch(grouped_ND[rows.argsort()], size)
    return Embedded(batch, states, [group["attention_mask"] for group in groups])


def as_batch(embeddings_ND: Tensor, size: int) -> EmbeddingBatch:
    """Embeddings (N, d) of the texts of `size` examples, in the order of `tokenize_batch`."""
    queries, positives, negatives = embeddings_ND.tensor_split((size, 2 * size))
    return EmbeddingBatch(queries, positives, negatives.unflatten(0, (size, -1)) if len(negatives) else None)


def group_by_length(
    tokens: Tokens, most: int | None = None, at_least: int = 1
) -> tuple[Tensor, list[Tokens]]:
    """Cut (N, T) tokens into groups of up to 8, 16, 32, 64, ... tokens, each padded to its own longest text.

    On real pairs of questions and documents padding would otherwise take much of the arithmetic. Where a pass of few tokens
    takes as long as one of many (FEWEST_AT_ONCE), groups are joined.

    Args:
        most: tokens in a group, with padding; a longer text is a group of its own.
        at_least: groups, as far as there are texts for them.

    Returns:
        the rows (N,) of `tokens` in the order of the groups, and the groups.
    """
    lengths_N = tokens["attention_mask"].sum(dim=1).tolist()
    parts = _rows_by_length(lengths_N, most, FEWEST_AT_ONCE.get(tokens["input_ids"].device.type, 0))
    while len(parts) < min(at_least, len(lengths_N)):
        largest = max(range(len(parts)), key=lambda number: len(parts[number]))
        half = len(parts[largest]) // 2
        parts[largest : largest + 1] = [parts[largest][:half], parts[largest][half:]]
    groups = []
    for rows in parts:
        longest = padded_length(max(lengths_N[row] for row in rows))
        groups.append({name: tensor[rows, :longest] for name, tensor in tokens.items()})
    return torch.tensor([row for rows in parts for row in rows], device=tokens["input_ids"].device), groups


def most_groups(tokens: Tokens, most: int | None = None) -> int:
    """How many groups the process makes that needs most of them; all processes ask together.

    Where weights are in shards, all processes have to go through the model equally often.
    """
    lengths_N = tokens["attention_mask"].sum(dim=1).tolist()
    device = tokens["input_ids"].device
    return largest_over_processes(
        len(_rows_by_length(lengths_N, most, FEWEST_AT_ONCE.get(device.type, 0))), device
    )


def _rows_by_length(lengths_N: list[int], most: int | None, fewest: int) -> list[list[int]]:
    """The rows of each group, shortest first. One of less than `fewest` tokens, with padding, joins the next longer one."""
    members: dict[int, list[int]] = {}
    for row, length in enumerate(lengths_N):
        members.setdefault((max(length, SHORTEST_GROUP) - 1).bit_length(), []).append(row)
    merged: list[list[int]] = []
    for _, group in sorted(members.items()):
        too_few = merged and len(merged[-1]) * _longest(lengths_N, merged[-1]) < fewest
        merged.append(merged.pop() + group if too_few else group)
    parts = []
    for group in merged:
        texts = len(group) if most is None else max(1, most // _longest(lengths_N, group))
        parts += [group[start : start + texts] for start in range(0, len(group), texts)]
    return parts


def _longest(lengths_N: list[int], rows: list[int]) -> int:
    return padded_length(max(lengths_N[row] for row in rows))


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast to `dtype`; nothing for float32."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def forward_dtype(precision: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The dtype of the forward pass; "auto" is bfloat16 where the processor multiplies in it."""
    if precision == "auto":
        precision = "bfloat16" if _computes_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return False


@contextmanager
def at_most(embedder: BitEmbedder, tokens: int) -> Iterator[None]:
    """Within the block `embedder` reads no more than so many tokens of a text."""
    before = embedder.max_length
    embedder.max_length = min(tokens, before)
    try:
        yield
    finally:
        embedder.max_length = before
