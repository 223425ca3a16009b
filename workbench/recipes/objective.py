"""What a stage minimises: a weighted sum of the method's losses, of which each stage switches on its own.

    L = 1/|R| sum_b (w_c L_ctr^(b) + w_s L_score^(b) + w_f (w_c L_ctr^(16 x b) + w_s L_score^(16 x b)))
        + w_r L_attn + w_e L_regression + w_u L_spread

over the output precisions b in R. The paper's stage 2 is w_c = 1, w_s = 0.2, w_r = 1e4 and R = {1, 2, 4,
8, 16}; its stages 0 and 1 are w_c = 1 and R = {16}.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from bitembed_core.losses import (
    AttentionRelationDistillation,
    EmbeddingBatch,
    EmbeddingRegression,
    InfoNCE,
    MultiPrecisionLoss,
    SimilarityDistillation,
    SpreadOut,
    matching_layer,
    relation_layer,
)
from workbench.recipes.distributed import gather_with_gradient, rank, sum_over_processes, world_size
from workbench.recipes.forward import Embedded

TEACHER_TERMS = ("similarity", "relation", "regression")


class Losses(NamedTuple):
    """Losses by name, each multiplied by its weight."""

    terms: dict[str, Tensor]  # their sum is the loss
    by_bits: dict[str, Tensor]  # contrastive_1bit, ...: `contrastive` is their mean


@dataclass(frozen=True)
class Objective:
    """Weights and options of the losses; the fields are those of the stages' configurations."""

    temperature: float = 0.02
    false_negative_margin: float | None = None
    bits: tuple[int | str, ...] = (16,)
    contrastive_weight: float = 1.0
    similarity_weight: float = 0.0
    float_queries_weight: float = 0.0
    relation_weight: float = 0.0
    relation_layer: int | None = None
    relation_heads: int = 32
    relation_temperature: float | None = None
    regression_weight: float = 0.0
    spread_out_weight: float = 0.0

    @classmethod
    def of(cls, config: Any) -> Self:
        """The objective that a stage's configuration describes; losses without a field in it stay off."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)})

    @property
    def imitates(self) -> bool:
        """Whether any loss needs a teacher."""
        return any(getattr(self, f"{term}_weight") for term in TEACHER_TERMS)

    def layers(self, student_depth: int, teacher_depth: int) -> tuple[int, int] | None:
        """Indices of the layers whose relations are compared, None if none are.

        A teacher of another depth is compared at the same share of its own depth.

        Raises:
            ValueError: the student does not have the layer that was chosen.
        """
        if not self.relation_weight:
            return None
        layer = relation_layer(student_depth) if self.relation_layer is None else self.relation_layer
        if not 0 <= layer < student_depth:
            raise ValueError(f"relation_layer must be 0 to {student_depth - 1} for this model, not {layer}")
        return layer, matching_layer(layer, student_depth, teacher_depth)

    def __call__(self, student: Embedded, teacher: Embedded | None, in_batch: bool) -> Losses:
        """The losses of a micro-batch, on this process's part of it.

        Candidates come from all processes, and the mean over processes of each loss is the loss of the
        joined batch. Without attention states there is no loss of relations.
        """
        offset = rank() * len(student.batch.queries)
        terms = MultiPrecisionLoss(
            self.bits,
            InfoNCE(self.temperature, self.false_negative_margin),
            SimilarityDistillation(self.temperature),
            float_queries_weight=self.float_queries_weight,
        )(
            gather_candidates(student.batch),
            gather_candidates(teacher.batch) if teacher is not None and self.similarity_weight else None,
            offset=offset,
            in_batch=in_batch,
        )
        losses = {"contrastive": self.contrastive_weight * _mean(terms.contrastive)}
        if terms.distillation:
            losses["similarity"] = self.similarity_weight * _mean(terms.distillation)
        if terms.asymmetric:
            asymmetric = self.contrastive_weight * _mean(terms.asymmetric)
            if terms.asymmetric_distillation:
                asymmetric = asymmetric + self.similarity_weight * _mean(terms.asymmetric_distillation)
            losses["float_queries"] = self.float_queries_weight * asymmetric
        if teacher is not None and student.states:
            losses["relations"] = self.relation_weight * self.relations(student, teacher)
        if teacher is not None and self.regression_weight:
            regression = EmbeddingRegression()(_all_texts(student.batch), _all_texts(teacher.batch))
            losses["regression"] = self.regression_weight * regression
        if self.spread_out_weight:
            spread = [SpreadOut()(gather_with_gradient(e)) for e in student.batch[:2]]
            losses["spread_out"] = self.spread_out_weight * torch.stack(spread).mean()
        by_bits = {
            f"contrastive_{bits}bit"
            if isinstance(bits, int)
            else f"contrastive_{bits}": self.contrastive_weight * loss
            for bits, loss in terms.contrastive.items()
        }
        return Losses(losses, by_bits if len(by_bits) > 1 else {})

    def relations(self, student: Embedded, teacher: Embedded, all_tokens: Tensor | None = None) -> Tensor:
        """`L_attn`, scaled so that its mean over processes is the mean over the tokens of all of them.

        Args:
            all_tokens: how many those are, by default the ones of `student` and of the other processes' students.
        """
        divergence = AttentionRelationDistillation(self.relation_heads, self.relation_temperature)
        tokens = torch.stack([mask_BT.sum() for mask_BT in student.masks])
        losses = torch.stack(
            [
                divergence(ours, theirs, mask_BT)
                for ours, theirs, mask_BT in zip(student.states, teacher.states, student.masks, strict=True)
            ]
        )
        if all_tokens is None:
            all_tokens = sum_over_processes(tokens.sum())
        return world_size() * (losses * tokens).sum() / all_tokens


def gather_candidates(batch: EmbeddingBatch) -> EmbeddingBatch:
    """The own queries with the positives and hard negatives of all processes."""
    negatives = None if batch.negatives is None else gather_with_gradient(batch.negatives)
    return EmbeddingBatch(batch.queries, gather_with_gradient(batch.positives), negatives)


def _all_texts(batch: EmbeddingBatch) -> Tensor:
    parts = [batch.queries, batch.positives]
    if batch.negatives is not None:
        parts.append(batch.negatives.flatten(0, 1))
    return torch.cat(parts)


def _mean(by_bits: dict[int | str, Tensor]) -> Tensor:
    return torch.stack(list(by_bits.values())).mean()
