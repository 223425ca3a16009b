"""The losses in plain torch, with their gradients written down: softmax minus one-hot, softmax minus the teacher's."""

import torch
from torch import Tensor

from bitembed_core.divergence import exclude


def contrastive_rows_(
    scores_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float, margin: float | None
) -> Tensor:
    """See `candidate_losses.contrastive_rows_`."""
    allowed_BC = _of_the_query(target_B, owner_C)
    if margin is not None:
        kept_BC = ~(scores_BC > scores_BC.gather(1, target_B[:, None]) + margin)
        allowed_BC = kept_BC if allowed_BC is None else allowed_BC & kept_BC
    log_shares_BC = exclude(scores_BC / temperature, allowed_BC).log_softmax(dim=-1)
    losses_B = -log_shares_BC.gather(1, target_B[:, None])[:, 0]
    torch.exp(log_shares_BC, out=scores_BC)
    scores_BC[torch.arange(len(target_B), device=target_B.device), target_B] -= 1
    scores_BC /= temperature
    return losses_B


def distillation_rows_(
    scores_BC: Tensor, teacher_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float
) -> Tensor:
    """See `candidate_losses.distillation_rows_`."""
    allowed_BC = _of_the_query(target_B, owner_C)
    log_student_BC, log_teacher_BC = (
        exclude(s / temperature, allowed_BC).log_softmax(dim=-1) for s in (scores_BC, teacher_BC)
    )
    teacher_shares_BC = log_teacher_BC.exp()
    losses_B = (teacher_shares_BC * (log_teacher_BC - log_student_BC)).sum(dim=-1)
    torch.sub(log_student_BC.exp_(), teacher_shares_BC, out=scores_BC)
    scores_BC /= temperature
    return losses_B


def _of_the_query(target_B: Tensor, owner_C: Tensor | None) -> Tensor | None:
    return None if owner_C is None else target_B[:, None] == owner_C[None, :]
