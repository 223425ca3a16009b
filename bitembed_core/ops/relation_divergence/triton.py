"""The sum over rows of `KL(softmax(T T^T / t) || softmax(S S^T / s))` without any L x L matrix in memory.

A program goes through a block of rows against all columns, a block at a time, and keeps running maxima and sums, for
student and teacher at once. The gradient (`losses/relation_divergence.py`) needs D_ij and D_ji; since both logit matrices
are symmetric, D_ji takes the same logit and the normaliser of row j, so a second pass over the columns gives both.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_FEATURES = 256  # of a relation head: a block of rows stays in registers


@triton.jit
def head_rows(a_ptr, first, tokens, features, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """(ROWS, WIDTH) of a head's states (tokens, features), zeros past the end."""
    row = first + tl.arange(0, ROWS)
    k = tl.arange(0, WIDTH)
    at = row[:, None] * features + k[None, :]
    return tl.load(a_ptr + at, mask=(row < tokens)[:, None] & (k < features)[None, :], other=0.0)


@triton.jit
def relation_rows_kernel(
    student_ptr,
    teacher_ptr,
    real_ptr,
    student_log_sum_ptr,
    teacher_log_sum_ptr,
    loss_ptr,
    heads,
    tokens,
    student_features,
    teacher_features,
    student_inverse,
    teacher_inverse,
    ROWS: tl.constexpr,
    STUDENT_WIDTH: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
):
    first = tl.program_id(0) * ROWS
    head = tl.program_id(1).to(tl.int64)
    student_ptr += head * tokens * student_features
    teacher_ptr += head * tokens * teacher_features
    real_ptr += head // heads * tokens
    s_rows = head_rows(student_ptr, first, tokens, student_features, ROWS, STUDENT_WIDTH)
    t_rows = head_rows(teacher_ptr, first, tokens, teacher_features, ROWS, TEACHER_WIDTH)
    s_max = tl.full((ROWS,), -3.0e38, tl.float32)
    t_max = tl.full((ROWS,), -3.0e38, tl.float32)
    s_sum = tl.zeros((ROWS,), tl.float32)
    t_sum = tl.zeros((ROWS,), tl.float32)
    gap = tl.zeros((ROWS,), tl.float32)  # sum of exp(teacher logit - t_max) (teacher logit - student logit)
    for start in range(0, tokens, ROWS):
        column = start + tl.arange(0, ROWS)
        real = tl.load(real_ptr + column, mask=column < tokens, other=0) != 0
        s_columns = head_rows(student_ptr, start, tokens, student_features, ROWS, STUDENT_WIDTH)
        t_columns = head_rows(teacher_ptr, start, tokens, teacher_features, ROWS, TEACHER_WIDTH)
        s = tl.dot(s_rows, tl.trans(s_columns), input_precision="ieee") * student_inverse
        t = tl.dot(t_rows, tl.trans(t_columns), input_precision="ieee") * teacher_inverse
        s = tl.where(real[None, :], s, -3.0e38)
        t = tl.where(real[None, :], t, -3.0e38)
        s_new = tl.maximum(s_max, tl.max(s, axis=1))
        t_new = tl.maximum(t_max, tl.max(t, axis=1))
        s_share = tl.where(real[None, :], tl.exp(s - s_new[:, None]), 0.0)
        t_share = tl.where(real[None, :], tl.exp(t - t_new[:, None]), 0.0)
        s_sum = s_sum * tl.exp(s_max - s_new) + tl.sum(s_share, axis=1)
        shrink = tl.exp(t_max - t_new)
        t_sum = t_sum * shrink + tl.sum(t_share, axis=1)
        gap = gap * shrink + tl.sum(t_share * (t - s), axis=1)
        s_max = s_new
        t_max = t_new
    row = first + tl.arange(0, ROWS)
    inside = row < tokens
    counts = (tl.load(real_ptr + row, mask=inside, other=0) != 0) & (t_sum > 0.0)
    # Rows that do not count get sums of one, for no other reason than to keep their unused logarithms finite.
    s_log_sum = tl.where(counts, s_max + tl.log(tl.where(counts, s_sum, 1.0)), 0.0)
    t_log_sum = tl.where(counts, t_max + tl.log(tl.where(counts, t_sum, 1.0)), 0.0)
    loss = gap / tl.where(counts, t_sum, 1.0) - t_log_sum + s_log_sum
    tl.store(student_log_sum_ptr + head * tokens + row, s_log_sum, mask=inside)
    tl.store(teacher_log_sum_ptr + head * tokens + row, t_log_sum, mask=inside)
    tl.store(
        loss_ptr + head * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.where(counts, loss, 0.0), axis=0)
    )


@triton.jit
def relation_gradient_kernel(
    student_ptr,
    teacher_ptr,
    real_ptr,
    student_log_sum_ptr,
    teacher_log_sum_ptr,
    gradient_ptr,
    heads,
    tokens,
    student_features,
    teacher_features,
    student_inverse,
    teacher_inverse,
    ROWS: tl.constexpr,
    STUDENT_WIDTH: tl.constexpr,
    TEACHER_WIDTH: tl.constexpr,
):
    first = tl.program_id(0) * ROWS
    head = tl.program_id(1).to(tl.int64)
    student_ptr += head * tokens * student_features
    teacher_ptr += head * tokens * teacher_features
    real_ptr += head // heads * tokens
    student_log_sum_ptr += head * tokens
    teacher_log_sum_ptr += head * tokens
    row = first + tl.arange(0, ROWS)
    inside = row < tokens
    row_real = tl.load(real_ptr + row, mask=inside, other=0) != 0
    row_s_sum = tl.load(student_log_sum_ptr + row, mask=inside, other=0.0)
    row_t_sum = tl.load(teacher_log_sum_ptr + row, mask=inside, other=0.0)
    s_rows = head_rows(student_ptr, first, tokens, student_features, ROWS, STUDENT_WIDTH)
    t_rows = head_rows(teacher_ptr, first, tokens, teacher_features, ROWS, TEACHER_WIDTH)
    gradient = tl.zeros((ROWS, STUDENT_WIDTH), tl.float32)
    for start in range(0, tokens, ROWS):
        column = start + tl.arange(0, ROWS)
        column_inside = column < tokens
        column_real = tl.load(real_ptr + column, mask=column_inside, other=0) != 0
        column_s_sum = tl.load(student_log_sum_ptr + column, mask=column_inside, other=0.0)
        column_t_sum = tl.load(teacher_log_sum_ptr + column, mask=column_inside, other=0.0)
        s_columns = head_rows(student_ptr, start, tokens, student_features, ROWS, STUDENT_WIDTH)
        t_columns = head_rows(teacher_ptr, start, tokens, teacher_features, ROWS, TEACHER_WIDTH)
        s = tl.dot(s_rows, tl.trans(s_columns), input_precision="ieee") * student_inverse
        t = tl.dot(t_rows, tl.trans(t_columns), input_precision="ieee") * teacher_inverse
        difference = tl.exp(s - row_s_sum[:, None]) - tl.exp(t - row_t_sum[:, None])
        transposed = tl.exp(s - column_s_sum[None, :]) - tl.exp(t - column_t_sum[None, :])
        both = tl.where(row_real[:, None] & column_real[None, :], difference + transposed, 0.0)
        gradient = tl.dot(both, s_columns, gradient, input_precision="ieee")
    k = tl.arange(0, STUDENT_WIDTH)
    at = (head * tokens + row)[:, None] * student_features + k[None, :]
    tl.store(
        gradient_ptr + at,
        gradient * student_inverse,
        mask=inside[:, None] & (k < student_features)[None, :],
    )


def fits(student_BRTd: Tensor, teacher_BRTd: Tensor) -> bool:
    """Whether the kernels take these states: float32 heads that are not too wide."""
    states = (student_BRTd, teacher_BRTd)
    return all(s.dtype is torch.float32 and s.shape[-1] <= MOST_FEATURES for s in states)


@torch.library.custom_op("bitembed::relation_divergence", mutates_args=())
def relation_divergence(
    student_BRTd: Tensor,
    teacher_BRTd: Tensor,
    real_BT: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor]:
    """As `losses.relation_divergence.blocked`: the sum, and its gradient with respect to the student's states.

    Args:
        student_BRTd, teacher_BRTd: float32; widths may differ. real_BT: bool.
    """
    B, R, T, _ = student_BRTd.shape
    student_BRTd, teacher_BRTd = student_BRTd.contiguous(), teacher_BRTd.contiguous()
    gradient_BRTd = torch.empty_like(student_BRTd)
    if gradient_BRTd.numel() == 0:
        return student_BRTd.new_zeros(()), gradient_BRTd
    widths = [max(16, triton.next_power_of_2(a.shape[-1])) for a in (student_BRTd, teacher_BRTd)]
    rows = 64 if max(widths) <= 64 else 32 if max(widths) <= 128 else 16
    tiles = triton.cdiv(T, rows)
    log_sums_2BRT = student_BRTd.new_empty(2, B, R, T)
    losses = student_BRTd.new_empty(B * R * tiles)
    real_BT = real_BT.to(torch.int8).contiguous()
    sizes = (R, T, student_BRTd.shape[-1], teacher_BRTd.shape[-1])
    inverses = (1.0 / student_temperature, 1.0 / teacher_temperature)
    shape = {"ROWS": rows, "STUDENT_WIDTH": widths[0], "TEACHER_WIDTH": widths[1], "num_warps": 4}
    states = (student_BRTd, teacher_BRTd, real_BT, *log_sums_2BRT)
    relation_rows_kernel[(tiles, B * R)](*states, losses, *sizes, *inverses, **shape)
    relation_gradient_kernel[(tiles, B * R)](*states, gradient_BRTd, *sizes, *inverses, **shape)
    return losses.sum(), gradient_BRTd


@relation_divergence.register_fake
def _(
    student_BRTd: Tensor,
    teacher_BRTd: Tensor,
    real_BT: Tensor,
    student_temperature: float,
    teacher_temperature: float,
) -> tuple[Tensor, Tensor]:
    gradient = torch.empty_like(student_BRTd, memory_format=torch.contiguous_format)
    return student_BRTd.new_empty(()), gradient


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_total: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    (gradient_BRTd,) = ctx.saved_tensors
    return gradient_BRTd * grad_total, None, None, None, None


relation_divergence.register_autograd(_backward, setup_context=_keep)
