"""The one place where processes exchange tensors with their gradients."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def gather_with_gradient(x: Tensor) -> Tensor:
    """The `x` of all processes joined along the first axis, in the order of their ranks, with gradient.

    (n, ...) on each of W processes gives (W n, ...) everywhere. The gradient that reaches a process's own
    part is the sum of what all processes send back. With each process's loss being the mean over its own
    queries, and gradients averaged over processes as DistributedDataParallel does, every parameter gets
    exactly the gradient of one process that has the joined batch. (`accelerator.gather` lets no gradient
    through, and so loses the negatives' share.)
    """
    return x if world_size() == 1 else _Gather.apply(x)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of `x` over all processes, without gradient."""
    if world_size() == 1:
        return x.detach()
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def largest_over_processes(number: int, device: torch.device) -> int:
    """The largest `number` that a process has."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.length = len(x)
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total[rank() * ctx.length : (rank() + 1) * ctx.length]
