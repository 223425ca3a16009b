"""The optimizer, and what changes from step to step: learning rate, weight decay, quantization pressure."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from workbench.recipes.muon import Muon

BETAS = (0.9, 0.98)  # 0.98 as is usual for transformers: the second moment settles within short runs


def make_optimizer(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    matrices_by: Literal["adamw", "muon"] = "adamw",
    dtype: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """An optimizer of the parameters of `model` that require gradients: AdamW, or Muon, which computes in `dtype`, for the
    matrices and AdamW for the rest; see `parameter_groups`."""
    matrices, others = parameter_groups(model, weight_decay)
    if matrices_by == "adamw":
        return _adamw([matrices, others], learning_rate)
    return InTurn(Muon([matrices], learning_rate, dtype), _adamw([others], learning_rate))


def _adamw(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


class InTurn(torch.optim.Optimizer):
    """Several optimizers, each of one group of parameters, as one with all groups and states."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step(closure)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay; norms, biases and embedding tables without."""
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and id(parameter) not in tables
            (decayed if is_matrix else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def learning_rate_factor(
    step: int, steps: int, warmup_share: float, decay: Literal["cosine", "linear", "constant"]
) -> float:
    """Share of the peak learning rate in step `step` (from 0) of `steps`.

    It rises linearly over the first `warmup_share * steps` steps, none of which is at 0, and then falls
    along half a cosine or a line that would reach 0 right after the last step.
    """
    warmup = round(warmup_share * steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "constant": 1.0}[decay]


def weight_decay_at(step: int, steps: int, weight_decay: float, until: float) -> float:
    """`weight_decay` in the first `until * steps` steps, 0 afterwards, as in BitNet b1.58 2B4T (arXiv 2504.12285)."""
    return weight_decay if step < round(until * steps) else 0.0


def quantization_pressure(step: int, steps: int, warmup_share: float) -> float:
    """How much of the weights' rounding is done in step `step` (from 0) of `steps`.

    It rises linearly over the first `warmup_share * steps` steps, from 0, and is 1 afterwards.
    """
    warmup = round(warmup_share * steps)
    return step / warmup if step < warmup else 1.0
