"""The sum over rows of `KL(softmax(T T^T / t) || softmax(S S^T / s))`, with memory for a few texts at a time.

Autograd would keep four L x L matrices per text and relation head. The gradient is short enough to be written down:
with logits Z = S S^T / s and D = softmax(Z) - softmax(T T^T / t) for real rows, zero for padding,
`dZ = D` and `dS = (D + D^T) S / s`. So both passes are done together, a block of texts at a time.
"""

from typing import Any

import torch
from torch import Tensor

from bitembed_core.divergence import exclude, kl_divergence
from bitembed_core.ops import gpu

BLOCK_ELEMENTS = (
    1 << 18
)  # of an L x L matrix over heads and texts: 1 MiB, so that several stay in a core's cache


def plain(
    student_BRTd: Tensor, teacher_BRTd: Tensor, real_BT: Tensor, temperatures: tuple[float, float]
) -> Tensor:
    """The reference: every matrix at once, gradients by autograd. Temperatures of student and teacher."""
    logits = [
        exclude(a @ a.transpose(-1, -2) / temperature, real_BT[:, None, None, :])
        for a, temperature in zip((student_BRTd, teacher_BRTd), temperatures, strict=True)
    ]
    return (kl_divergence(logits[1], logits[0]) * real_BT[:, None]).sum()


def blocked(
    student_BRTd: Tensor, teacher_BRTd: Tensor, real_BT: Tensor, temperatures: tuple[float, float]
) -> Tensor:
    """The same sum. student_BRTd (B, R, T, d), teacher_BRTd (B, R, T, d'), real_BT bool; float32 or wider."""
    if gpu.automatic(student_BRTd.device):
        from bitembed_core.ops.relation_divergence import triton

        if triton.fits(student_BRTd, teacher_BRTd):
            teacher_BRTd = teacher_BRTd.detach()
            return triton.relation_divergence(student_BRTd, teacher_BRTd, real_BT, *temperatures)[0]
    return _RelationDivergence.apply(student_BRTd, teacher_BRTd.detach(), real_BT, temperatures)


class _RelationDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_BRTd: Tensor,
        teacher_BRTd: Tensor,
        real_BT: Tensor,
        temperatures: tuple[float, float],
    ) -> Tensor:
        B, R, T, _ = student_BRTd.shape
        step = max(1, BLOCK_ELEMENTS // max(1, R * T * T))
        total = student_BRTd.new_zeros(())
        gradient_BRTd = torch.empty_like(student_BRTd)
        with torch.autocast(student_BRTd.device.type, enabled=False):
            for start in range(0, B, step):
                texts = slice(start, start + step)
                s, real_B1T1 = student_BRTd[texts], real_BT[texts, None, :, None]
                log_s = _log_relations(s, temperatures[0], real_BT[texts])
                log_t = _log_relations(teacher_BRTd[texts], temperatures[1], real_BT[texts])
                p_t = log_t.exp()
                rows_BRT1 = log_t.sub_(log_s).mul_(p_t).sum(dim=-1, keepdim=True)
                total += rows_BRT1.masked_fill(~real_B1T1, 0).sum()
                difference = log_s.exp_().sub_(p_t)  # D, whose rows of padding are left out below
                gradient = (difference @ s).masked_fill_(~real_B1T1, 0)
                gradient += difference.transpose(-1, -2) @ s.masked_fill(~real_B1T1, 0)
                gradient_BRTd[texts] = gradient / temperatures[0]
        ctx.save_for_backward(gradient_BRTd)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_BRTd,) = ctx.saved_tensors
        return gradient_BRTd * grad_outputs[0], None, None, None


def _log_relations(a_BRTd: Tensor, temperature: float, real_BT: Tensor) -> Tensor:
    B, R, T, _ = a_BRTd.shape
    lowest = torch.finfo(a_BRTd.dtype).min / 2  # as in `exclude`; half of it, since logits are added
    excluded_BR1T = (
        a_BRTd.new_zeros(B, 1, 1, T).masked_fill_(~real_BT[:, None, None], lowest).expand(B, R, 1, T)
    )
    a_XTd = a_BRTd.flatten(0, 1)
    logits_XTT = torch.baddbmm(excluded_BR1T.flatten(0, 1), a_XTd, a_XTd.mT, alpha=1 / temperature)
    return logits_XTT.log_softmax(dim=-1).unflatten(0, (B, R))
