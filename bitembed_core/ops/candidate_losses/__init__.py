"""Losses of a query over its candidates, from a block of scores, which becomes their gradient.

Both functions take scores (b, C) of b queries, write over them the gradient of the losses' sum, and return the losses (b,).
`owner_C` says whose query a candidate belongs to: where it is given, only candidates with `owner == target` count.
"""

from torch import Tensor

from bitembed_core.ops import gpu
from bitembed_core.ops.candidate_losses import reference

__all__ = ["contrastive_rows_", "distillation_rows_"]


def contrastive_rows_(
    scores_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float, margin: float | None
) -> Tensor:
    """`-log softmax(s / tau)` at the target; see `InfoNCE` for the margin."""
    if _by_triton(scores_BC):
        from bitembed_core.ops.candidate_losses.triton import contrastive_rows

        return contrastive_rows(scores_BC, target_B, owner_C, temperature, margin)
    return reference.contrastive_rows_(scores_BC, target_B, owner_C, temperature, margin)


def distillation_rows_(
    scores_BC: Tensor, teacher_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float
) -> Tensor:
    """`KL(softmax(teacher / tau) || softmax(s / tau))`; see `SimilarityDistillation`."""
    if _by_triton(scores_BC):
        from bitembed_core.ops.candidate_losses.triton import distillation_rows

        return distillation_rows(scores_BC, teacher_BC, target_B, owner_C, temperature)
    return reference.distillation_rows_(scores_BC, teacher_BC, target_B, owner_C, temperature)


def _by_triton(scores_BC: Tensor) -> bool:
    return gpu.automatic(scores_BC.device) and scores_BC.element_size() == 4
