"""Losses over candidates without the whole matrix of scores: a block of queries at a time, forward and backward at once.

A block's scores are computed, turned into the gradient of its losses in place, and multiplied back at once (as in
Liger-Kernel's fused linear cross entropy, arXiv 2410.10989). Memory is one block of scores and the gradients of the inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BLOCK_SCORES = 1 << 22  # of float32: 16 MiB

# A range of queries and their scores (b, C) -> their losses (b,); the scores become the gradient of the losses' sum.
RowLosses = Callable[[slice, Tensor], Tensor]


def mean_loss(queries_BD: Tensor, candidates_CD: Tensor, row_losses: RowLosses) -> Tensor:
    """Mean over the queries of `row_losses` of their inner products with the candidates; both at least float32."""
    return _MeanLoss.apply(queries_BD, candidates_CD, row_losses)


class _MeanLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries_BD: Tensor, candidates_CD: Tensor, row_losses: RowLosses) -> Tensor:
        B, C = len(queries_BD), len(candidates_CD)
        step = max(1, BLOCK_SCORES // C)
        losses_B = queries_BD.new_empty(B)
        wanted = any(ctx.needs_input_grad)
        gradients = [torch.empty_like(queries_BD), torch.zeros_like(candidates_CD)] if wanted else []
        with torch.autocast(queries_BD.device.type, enabled=False):
            for start in range(0, B, step):
                rows = slice(start, min(start + step, B))
                scores_BC = queries_BD[rows] @ candidates_CD.t()
                losses_B[rows] = row_losses(rows, scores_BC)
                if wanted:
                    gradients[0][rows] = scores_BC @ candidates_CD
                    gradients[1].addmm_(scores_BC.t(), queries_BD[rows])
        ctx.save_for_backward(*gradients)
        ctx.B = B
        return losses_B.mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        queries_BD, candidates_CD = ctx.saved_tensors
        return queries_BD * (grad_outputs[0] / ctx.B), candidates_CD * (grad_outputs[0] / ctx.B), None
