"""Muon: every update of a matrix is orthogonal, so that all directions of it learn at the same pace.

Keller Jordan, https://kellerjordan.github.io/posts/muon/; scaled as in Moonlight (arXiv 2502.16982, Eq 4) to the size of
AdamW's updates, so that both take the same learning rate and weight decay.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from workbench.recipes.sharding import share_of, whole

MOMENTUM = 0.95
ADAMW_RMS = 0.2  # root mean square of AdamW's updates over the learning rate, as usually seen
# Five steps of x <- a x + b x^3 + c x^5 take singular values of 0.003 to 1 to 0.68 to 1.21.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """One step, with a running mean M of the gradients G of a matrix W of m x n:

        M <- 0.95 M + 0.05 G
        W <- (1 - lr weight_decay) W - lr 0.2 sqrt(max(m, n)) orthogonal(0.05 G + 0.95 M)

    A matrix in shards is put together for `orthogonal`, on every process.

    Args:
        dtype: what `orthogonal` computes in; bfloat16 is enough.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})
        self.dtype = dtype
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim != 2]
        if shapes:
            raise ValueError(f"Muon moves matrices, not parameters of shape {shapes[0]}: AdamW takes them")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before the step")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                direction = whole(weight.grad.lerp(state["momentum"], MOMENTUM))
                update = share_of(orthogonal(direction, self.dtype).to(weight.dtype), weight)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * ADAMW_RMS * max(weight.shape) ** 0.5)


def orthogonal(x_MN: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T for x = U S V^T: the same directions with singular values near one, in `dtype`; zeros stay zeros."""
    a, b, c = COEFFICIENTS
    is_tall = x_MN.shape[0] > x_MN.shape[1]
    x = (x_MN.T if is_tall else x_MN).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
