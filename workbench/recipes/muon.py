"""Muon: every update of a matrix is orthogonal, so that all directions of it learn at the same pace.

Keller Jordan, https://kellerjordan.github.io/posts/muon/; scaled as in Moonlight (arXiv 2502.16982, Eq 4) to the size of
AdamW's updates, so that both take the same learning rate and weight decay.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from workbench.recipes.sharding import share_of, whole

MOMENTUM = 0.95
ADAMW_RMS = 0.2  # root mean square of AdamW's updates over the learning rate, as usually seen
# Five steps of x <- a x + b x^3 + c x^5 take singular values of 0.003 to 1 to 0.68 to 1.21.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
AT_ONCE = 1 << 22  # elements


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
            for weights in _alike([weight for weight in group["params"] if weight.grad is not None]):
                directions_LMN = torch.stack([whole(self._direction(w)).to(self.dtype) for w in weights])
                for weight, update in zip(weights, orthogonal(directions_LMN, self.dtype), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    share = share_of(update.to(weight.dtype), weight)
                    weight.add_(share, alpha=-group["lr"] * ADAMW_RMS * max(weight.shape) ** 0.5)

    def _direction(self, weight: Tensor) -> Tensor:
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
        return weight.grad.lerp(state["momentum"], MOMENTUM)


def _alike(weights: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape, up to AT_ONCE together: products of many small matrices are faster than many products."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        by_shape.setdefault(weight.shape, []).append(weight)
    for shape, same in by_shape.items():
        most = max(1, AT_ONCE // shape.numel())
        for start in range(0, len(same), most):
            yield same[start : start + most]


def orthogonal(x: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T for each matrix x = U S V^T of (M, N) or (L, M, N): the same directions with singular values near one, in
    `dtype`; zeros stay zeros."""
    a, b, c = COEFFICIENTS
    is_tall = x.shape[-2] > x.shape[-1]
    wide_LMN = (x.mT if is_tall else x).to(dtype).reshape(-1, *sorted(x.shape[-2:]))
    wide_LMN = wide_LMN / wide_LMN.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ITERATIONS):
        gram_LMM = wide_LMN @ wide_LMN.mT
        polynomial_LMM = torch.baddbmm(gram_LMM, gram_LMM, gram_LMM, beta=b, alpha=c)
        wide_LMN = torch.baddbmm(wide_LMN, polynomial_LMM, wide_LMN, beta=a)
    return (wide_LMN.mT if is_tall else wide_LMN).reshape(x.shape)
