"""The losses over candidates as Triton kernels: a program has a row of scores, reads it twice and writes its gradient."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def allowed_candidates(
    candidate, candidates, target, owner_ptr, score, limit, HAS_OWNER: tl.constexpr, HAS_MARGIN: tl.constexpr
):
    allowed = candidate < candidates
    if HAS_OWNER:
        allowed &= tl.load(owner_ptr + candidate, mask=candidate < candidates, other=-1) == target
    if HAS_MARGIN:
        allowed &= ~(score > limit)
    return allowed


@triton.jit
def contrastive_kernel(
    scores_ptr,
    target_ptr,
    owner_ptr,
    losses_ptr,
    candidates,
    inverse_temperature,
    margin,
    HAS_OWNER: tl.constexpr,
    HAS_MARGIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64)
    scores_ptr += query * candidates
    target = tl.load(target_ptr + query)
    positive = tl.load(scores_ptr + target)
    limit = positive + margin
    top = tl.full((BLOCK,), -3.0e38, tl.float32)  # of the candidates that each lane sees
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, candidates, BLOCK):
        candidate = start + tl.arange(0, BLOCK)
        score = tl.load(scores_ptr + candidate, mask=candidate < candidates, other=0.0)
        allowed = allowed_candidates(
            candidate, candidates, target, owner_ptr, score, limit, HAS_OWNER, HAS_MARGIN
        )
        logit = tl.where(allowed, score * inverse_temperature, -3.0e38)
        higher = tl.maximum(top, logit)
        total = total * tl.exp(top - higher) + tl.where(allowed, tl.exp(logit - higher), 0.0)
        top = higher
    highest = tl.max(top, axis=0)
    log_sum = highest + tl.log(tl.sum(total * tl.exp(top - highest), axis=0))
    tl.store(losses_ptr + query, log_sum - positive * inverse_temperature)
    for start in range(0, candidates, BLOCK):
        candidate = start + tl.arange(0, BLOCK)
        score = tl.load(scores_ptr + candidate, mask=candidate < candidates, other=0.0)
        allowed = allowed_candidates(
            candidate, candidates, target, owner_ptr, score, limit, HAS_OWNER, HAS_MARGIN
        )
        share = tl.where(allowed, tl.exp(score * inverse_temperature - log_sum), 0.0)
        gradient = tl.where(candidate == target, share - 1.0, share) * inverse_temperature
        tl.store(scores_ptr + candidate, gradient, mask=candidate < candidates)


@triton.jit
def distillation_kernel(
    scores_ptr,
    teacher_ptr,
    target_ptr,
    owner_ptr,
    losses_ptr,
    candidates,
    inverse_temperature,
    HAS_OWNER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    query = tl.program_id(0).to(tl.int64)
    scores_ptr += query * candidates
    teacher_ptr += query * candidates
    target = tl.load(target_ptr + query)
    s_top = tl.full((BLOCK,), -3.0e38, tl.float32)
    t_top = tl.full((BLOCK,), -3.0e38, tl.float32)
    s_total = tl.zeros((BLOCK,), tl.float32)
    t_total = tl.zeros((BLOCK,), tl.float32)
    gap = tl.zeros((BLOCK,), tl.float32)  # sum of exp(teacher logit - t_top) (teacher logit - student logit)
    for start in range(0, candidates, BLOCK):
        candidate = start + tl.arange(0, BLOCK)
        inside = candidate < candidates
        allowed = allowed_candidates(candidate, candidates, target, owner_ptr, 0.0, 0.0, HAS_OWNER, False)
        s = tl.load(scores_ptr + candidate, mask=inside, other=0.0) * inverse_temperature
        t = tl.load(teacher_ptr + candidate, mask=inside, other=0.0) * inverse_temperature
        s_higher = tl.maximum(s_top, tl.where(allowed, s, -3.0e38))
        t_higher = tl.maximum(t_top, tl.where(allowed, t, -3.0e38))
        shrink = tl.exp(t_top - t_higher)
        t_share = tl.where(allowed, tl.exp(t - t_higher), 0.0)
        s_total = s_total * tl.exp(s_top - s_higher) + tl.where(allowed, tl.exp(s - s_higher), 0.0)
        t_total = t_total * shrink + t_share
        gap = gap * shrink + t_share * (t - s)
        s_top = s_higher
        t_top = t_higher
    s_highest = tl.max(s_top, axis=0)
    t_highest = tl.max(t_top, axis=0)
    s_log_sum = s_highest + tl.log(tl.sum(s_total * tl.exp(s_top - s_highest), axis=0))
    t_scale = tl.exp(t_top - t_highest)
    t_sum = tl.sum(t_total * t_scale, axis=0)
    t_log_sum = t_highest + tl.log(t_sum)
    tl.store(losses_ptr + query, tl.sum(gap * t_scale, axis=0) / t_sum - t_log_sum + s_log_sum)
    for start in range(0, candidates, BLOCK):
        candidate = start + tl.arange(0, BLOCK)
        inside = candidate < candidates
        allowed = allowed_candidates(candidate, candidates, target, owner_ptr, 0.0, 0.0, HAS_OWNER, False)
        s = tl.load(scores_ptr + candidate, mask=inside, other=0.0) * inverse_temperature
        t = tl.load(teacher_ptr + candidate, mask=inside, other=0.0) * inverse_temperature
        difference = tl.exp(s - s_log_sum) - tl.exp(t - t_log_sum)
        gradient = tl.where(allowed, difference * inverse_temperature, 0.0)
        tl.store(scores_ptr + candidate, gradient, mask=inside)


@torch.library.custom_op("bitembed::contrastive_rows", mutates_args={"scores_BC"})
def contrastive_rows(
    scores_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float, margin: float | None
) -> Tensor:
    """`reference.contrastive_rows_` of float32 scores."""
    losses_B = scores_BC.new_empty(len(scores_BC))
    if len(scores_BC):
        contrastive_kernel[(len(scores_BC),)](
            _contiguous(scores_BC),
            target_B.contiguous(),
            None if owner_C is None else owner_C.contiguous(),
            losses_B,
            scores_BC.shape[1],
            1.0 / temperature,
            0.0 if margin is None else margin,
            HAS_OWNER=owner_C is not None,
            HAS_MARGIN=margin is not None,
            BLOCK=BLOCK,
        )
    return losses_B


@contrastive_rows.register_fake
def _(
    scores_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float, margin: float | None
) -> Tensor:
    return scores_BC.new_empty(scores_BC.shape[0])


@torch.library.custom_op("bitembed::distillation_rows", mutates_args={"scores_BC"})
def distillation_rows(
    scores_BC: Tensor, teacher_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float
) -> Tensor:
    """`reference.distillation_rows_` of float32 scores."""
    losses_B = scores_BC.new_empty(len(scores_BC))
    if len(scores_BC):
        distillation_kernel[(len(scores_BC),)](
            _contiguous(scores_BC),
            teacher_BC.contiguous(),
            target_B.contiguous(),
            None if owner_C is None else owner_C.contiguous(),
            losses_B,
            scores_BC.shape[1],
            1.0 / temperature,
            HAS_OWNER=owner_C is not None,
            BLOCK=BLOCK,
        )
    return losses_B


@distillation_rows.register_fake
def _(
    scores_BC: Tensor, teacher_BC: Tensor, target_B: Tensor, owner_C: Tensor | None, temperature: float
) -> Tensor:
    return scores_BC.new_empty(scores_BC.shape[0])


def _contiguous(scores_BC: Tensor) -> Tensor:
    if not scores_BC.is_contiguous():
        raise ValueError("scores are written in place and must be contiguous")
    return scores_BC
