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

BLOCK_ELEMENTS = 1 << 21  # of an L x L matrix over heads and texts: 8 MiB


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
                s, t, real = student_BRTd[texts], teacher_BRTd[texts], real_BT[texts]
                log_s = _log_relations(s, temperatures[0], real)
                log_t = _log_relations(t, temperatures[1], real)
                p_t = log_t.exp()
                rows = real[:, None, :, None]
                total += (p_t * (log_t - log_s)).masked_fill_(~rows, 0).sum()
                difference = log_s.exp_().sub_(p_t).masked_fill_(~rows, 0)
                gradient_BRTd[texts] = (difference + difference.transpose(-1, -2)) @ s / temperatures[0]
        ctx.save_for_backward(gradient_BRTd)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_BRTd,) = ctx.saved_tensors
        return gradient_BRTd * grad_outputs[0], None, None, None


def _log_relations(a_BRTd: Tensor, temperature: float, real_BT: Tensor) -> Tensor:
    logits = (a_BRTd @ a_BRTd.transpose(-1, -2)).div_(temperature)
    return exclude(logits, real_BT[:, None, None, :]).log_softmax(dim=-1)
