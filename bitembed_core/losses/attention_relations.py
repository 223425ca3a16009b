"""Distillation of the relations between tokens in one attention layer (`L_attn`, Eq 8; after MiniLMv2)."""

import math

import torch
from torch import Tensor, nn

from bitembed_core.attention import AttentionStates
from bitembed_core.losses import relation_divergence
from bitembed_core.similarity import full_precision, unit_vectors

ABOUT_60_PERCENT = 0.6
# The paper's choices for Qwen3-0.6B (28 layers) and Gemma3-270M (18), counted from 1.
PUBLISHED_LAYERS = {28: 18, 18: 10}


def relation_layer(num_layers: int, depth: float = ABOUT_60_PERCENT) -> int:
    """0-based index of the layer whose relations are distilled, "about 60 % of the depth".

    At the default depth the paper's own choices are returned where it made one: its layer 18 of 28 (index
    17) and 10 of 18 (index 9). They are 64 % and 56 %, which no rounding of one share gives; every other
    model gets the layer nearest to `depth * num_layers`, counted from 1 (layer 4 of 6, 7 of 12, 14 of 24).
    """
    if num_layers < 1 or not 0 < depth <= 1:
        raise ValueError(f"need at least one layer and a depth in (0, 1]; got {num_layers} and {depth}")
    if depth == ABOUT_60_PERCENT and num_layers in PUBLISHED_LAYERS:
        return PUBLISHED_LAYERS[num_layers] - 1
    return max(1, round(depth * num_layers)) - 1


def matching_layer(layer: int, num_layers: int, teacher_layers: int) -> int:
    """0-based index of the teacher's layer at the same share of its depth as `layer` of a student's `num_layers`."""
    if teacher_layers == num_layers:
        return layer
    return relation_layer(teacher_layers, (layer + 1) / num_layers)


class AttentionRelationDistillation(nn.Module):
    """Mean over phi in {Q, K, V}, relation heads and real tokens of `KL(R_teacher || R_student)`.

    `R = softmax(A A^T / temperature)`. The heads of Q, K or V are concatenated and split again into
    relation heads; A (T, d_r) holds the states of one of them. So student and teacher may differ in heads,
    KV heads and width. All pairs of real tokens are related, in causal models too; padding takes no part in
    rows or columns.

    Args:
        relation_heads: the number of relation heads. Where it does not divide the width of the student's
            and the teacher's Q (or K, or V), their greatest common divisor is used for that one: widths 312
            get 8, not 32.
        temperature: None is Eq 8 read literally, `sqrt(d_r)`; BitDistill's code has 1.0, which makes the loss
            roughly d_r times larger.
        normalize: each token's state in A has length 1, so that A A^T is a matrix of cosines.
    """

    def __init__(
        self, relation_heads: int = 32, temperature: float | None = None, normalize: bool = True
    ) -> None:
        super().__init__()
        if relation_heads < 1:
            raise ValueError(f"relation_heads must be at least 1, got {relation_heads}")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.relation_heads = relation_heads
        self.temperature = temperature
        self.normalize = normalize

    def forward(
        self, student: AttentionStates, teacher: AttentionStates, attention_mask_BT: Tensor
    ) -> Tensor:
        """Scalar loss; no gradient goes to the teacher.

        Args:
            student, teacher: queries (B, H, T, d_h), keys and values (B, KV heads, T, d_h) of the same
                tokens.
            attention_mask_BT: nonzero at real tokens.

        Raises:
            ValueError: states and mask do not belong to the same batch of tokens.
        """
        real_BT = attention_mask_BT.bool()
        losses = [
            self.divergence(student_BHTD, teacher_BHTD, real_BT)
            for student_BHTD, teacher_BHTD in zip(student, teacher, strict=True)
        ]
        return torch.stack(losses).mean()

    def divergence(self, student_BHTD: Tensor, teacher_BHTD: Tensor, real_BT: Tensor) -> Tensor:
        """The loss of one phi: mean over relation heads and real tokens, zero when there are none."""
        for states_BHTD in (student_BHTD, teacher_BHTD):
            if states_BHTD.ndim != 4 or states_BHTD.shape[::2] != real_BT.shape:
                raise ValueError(
                    "attention states must be (B, heads, T, head_dim) with the mask's B and T = "
                    f"{tuple(real_BT.shape)}; got {tuple(states_BHTD.shape)}"
                )
        heads = self.common_heads(student_BHTD, teacher_BHTD)
        a_student, a_teacher = (
            self.relation_heads_of(states, heads, real_BT) for states in (student_BHTD, teacher_BHTD)
        )
        temperatures = (self.divisor(a_student), self.divisor(a_teacher))
        total = relation_divergence.blocked(a_student, a_teacher, real_BT, temperatures)
        return total / (heads * real_BT.sum()).clamp(min=1)

    def common_heads(self, *states_BHTD: Tensor) -> int:
        """The number of relation heads that states of several models can all be split into."""
        return math.gcd(self.relation_heads, *(states.shape[1] * states.shape[3] for states in states_BHTD))

    def divisor(self, a_BRTd: Tensor) -> float:
        """What the logits are divided by: the temperature, or sqrt(d_r)."""
        return math.sqrt(a_BRTd.shape[-1]) if self.temperature is None else self.temperature

    def relation_heads_of(self, states_BHTD: Tensor, heads: int, real_BT: Tensor) -> Tensor:
        """The states split into relation heads, A (B, heads, T, d_r), of unit length if `normalize`."""
        # Zeroing padding first keeps whatever a model leaves there, even NaN, out of values and gradients.
        states_BTW = states_BHTD.transpose(1, 2).flatten(2).masked_fill(~real_BT[..., None], 0)
        a_BRTd = states_BTW.unflatten(2, (heads, -1)).transpose(1, 2)
        return unit_vectors(a_BRTd) if self.normalize else full_precision(a_BRTd)
