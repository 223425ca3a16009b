"""Kullback-Leibler divergence between two softmax distributions over the same candidates."""

import torch
from torch import Tensor


def exclude(logits: Tensor, allowed: Tensor | None) -> Tensor:
    """`logits` with everything that is not `allowed` (broadcastable, bool) at the lowest finite value.

    The softmax of an excluded entry is exactly zero, and unlike with minus infinity nothing becomes NaN:
    neither `0 * log 0` nor a row of which nothing is allowed.
    """
    return logits if allowed is None else logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor, allowed: Tensor | None = None) -> Tensor:
    """`KL(softmax(teacher) || softmax(student))` over the last axis.

    Args:
        teacher_logits, student_logits: (..., C), already divided by the temperature. No gradient goes to
            the teacher.
        allowed: bool, broadcastable to (..., C), or None for all.

    Returns:
        (...), one divergence per distribution.
    """
    log_teacher = exclude(teacher_logits.detach(), allowed).log_softmax(dim=-1)
    log_student = exclude(student_logits, allowed).log_softmax(dim=-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
