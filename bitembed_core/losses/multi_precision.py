"""Output precision training: one loss for every storage precision (`L_mp` without its attention term)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitembed_core.losses.candidates import EmbeddingBatch
from bitembed_core.losses.info_nce import InfoNCE
from bitembed_core.losses.similarity_distillation import SimilarityDistillation
from bitembed_core.similarity import full_precision
from bitembed_core.storage.output_quantizer import OUTPUT_BITS, check_output_bits, fake_quantize_outputs


class MultiPrecisionTerms(NamedTuple):
    """The total and its unweighted parts by precision; those of distillation are empty without a teacher, the asymmetric
    ones without a weight."""

    total: Tensor
    contrastive: dict[int | str, Tensor]
    distillation: dict[int | str, Tensor]
    asymmetric: dict[int | str, Tensor]
    asymmetric_distillation: dict[int | str, Tensor]


class MultiPrecisionLoss(nn.Module):
    """`1/|R| sum_{b in R} (L_ctr^(b) + w L_score^(b) + v (L_ctr^(16 x b) + w L_score^(16 x b)))`.

    For each b all embeddings of the student, queries and candidates, are rounded to b bits per value (Eq 10
    and 11, straight-through) before the losses compare them. The teacher's stay in floating point. The last part, which the
    paper does not have, compares queries in floating point with rounded candidates: what asymmetric search does.

    Args:
        bits: R, out of 1, 2, 4, 8 and 16 (no rounding) and the names of storage formats, fitted and shortened ones too.
        contrastive: `L_ctr`, by default `InfoNCE()`.
        distillation: `L_score`, by default `SimilarityDistillation()`; used when a teacher's batch is given.
        distillation_weight: w. float_queries_weight: v.
    """

    def __init__(
        self,
        bits: Sequence[int | str] = (1, 2, 4, 8, 16),
        contrastive: nn.Module | None = None,
        distillation: nn.Module | None = None,
        distillation_weight: float = 0.2,
        float_queries_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_output_bits(bits)
        if not bits or len(set(bits)) != len(bits):
            raise ValueError(f"bits must be different numbers out of {OUTPUT_BITS}, got {tuple(bits)}")
        self.bits = tuple(bits)
        self.contrastive = InfoNCE() if contrastive is None else contrastive
        self.distillation = SimilarityDistillation() if distillation is None else distillation
        self.distillation_weight = distillation_weight
        self.float_queries_weight = float_queries_weight

    def forward(
        self,
        student: EmbeddingBatch,
        teacher: EmbeddingBatch | None = None,
        *,
        offset: int = 0,
        in_batch: bool = True,
    ) -> MultiPrecisionTerms:
        """Losses of a student's batch, with the teacher's embeddings of the same texts or None.

        `offset` and `in_batch` are those of `candidate_scores`.
        """
        contrastive: dict[int | str, Tensor] = {}
        distillation: dict[int | str, Tensor] = {}
        asymmetric: dict[int | str, Tensor] = {}
        asymmetric_distillation: dict[int | str, Tensor] = {}
        pairing: dict[str, Any] = {"offset": offset, "in_batch": in_batch}
        for bits, rounded in zip(self.bits, quantized_batches(student, self.bits), strict=True):
            contrastive[bits] = self.contrastive(*rounded, **pairing)
            if teacher is not None:
                distillation[bits] = self.distillation(rounded, teacher, **pairing)
            if self.float_queries_weight:
                kept = rounded.positives.shape[-1]  # fewer where the format is shortened
                mixed = rounded._replace(queries=full_precision(student.queries)[..., :kept])
                asymmetric[bits] = self.contrastive(*mixed, **pairing)
                if teacher is not None:
                    asymmetric_distillation[bits] = self.distillation(mixed, teacher, **pairing)
        total = _mean(contrastive)
        if distillation:
            total = total + self.distillation_weight * _mean(distillation)
        if asymmetric:
            total = total + self.float_queries_weight * _mean(asymmetric)
        if asymmetric_distillation:
            weight = self.float_queries_weight * self.distillation_weight
            total = total + weight * _mean(asymmetric_distillation)
        return MultiPrecisionTerms(total, contrastive, distillation, asymmetric, asymmetric_distillation)


def _mean(by_bits: dict[int | str, Tensor]) -> Tensor:
    return torch.stack(list(by_bits.values())).mean()


def quantized_batches(batch: EmbeddingBatch, bits: Sequence[int | str]) -> list[EmbeddingBatch]:
    """The batch with every embedding rounded to each number of bits per value, gradients straight through."""
    rounded = [None if e is None else fake_quantize_outputs(full_precision(e), bits) for e in batch]
    queries, positives, negatives = rounded
    assert queries is not None
    assert positives is not None
    return [
        EmbeddingBatch(queries[i], positives[i], None if negatives is None else negatives[i])
        for i in range(len(bits))
    ]
