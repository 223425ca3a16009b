"""A linear map between pooling and normalisation: the dense layers of many sentence-transformers models, what brings a
student's embeddings closer to its teacher's once training is over, and what flattens a spectrum.

What ternary weights and few bits take from a student is in part the same for all texts, a stretching of some directions
at the cost of others. That part a matrix undoes, and the best one follows from embeddings of both models.

Without a teacher, a part of it follows from the embeddings alone: a few directions in which all texts differ most outweigh
the many in which a text differs from its neighbours, more so after few bits. Whitening (Su et al., arXiv 2103.15316) makes
all directions alike; a power of it keeps their order.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from bitembed_core.exact_product import ExactProduct
from bitembed_core.similarity import unit_vectors

FLATTENING = 0.3  # of a spectrum's logarithm; 1 is whitening
LEAST_VARIANCE = 1e-3  # beside the mean of all directions: what is smaller counts as this much
RIDGE = 10.0  # texts in every direction that vote for no change; for 2,000 to 20,000 texts alike


@dataclass(frozen=True, eq=False)
class OutputMap:
    """`x -> x W / |x W|`.

    Args:
        matrix: W, float32 (dim, dim).

    Raises:
        ValueError: a matrix that is not square or has values that are not finite.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        W = self.matrix
        if W.ndim != 2 or W.shape[0] != W.shape[1] or W.dtype != torch.float32:
            raise ValueError(f"an output map is a square float32 matrix, not {W.dtype} {tuple(W.shape)}")
        if not torch.isfinite(W).all():
            raise ValueError("the output map has values that are NaN or infinite: damaged")

    @property
    def dim(self) -> int:
        return len(self.matrix)

    @classmethod
    def fit(cls, x: Tensor, y: Tensor) -> Self:
        """The map that brings embeddings x (n, dim) closest to the y (n, dim) of the same texts, held back a little.

        It makes `|x W - y|^2 + RIDGE |W - 1|^2` least, over all of x and y at length 1, which has the closed form
        `W = (x^T x + RIDGE)^-1 (x^T y + RIDGE)`: directions of which few texts have something stay as they are.

        Raises:
            ValueError: no embeddings, or of different shapes.
        """
        if x.shape != y.shape or x.ndim != 2 or not len(x):
            raise ValueError(
                f"a map is fitted to embeddings of the same texts, not {tuple(x.shape)} and {tuple(y.shape)}"
            )
        x, y = (unit_vectors(side.detach().cpu()).double() for side in (x, y))
        held = RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
        return cls(torch.linalg.solve(x.T @ x + held, x.T @ y + held).float())

    @classmethod
    def flattening(cls, x: Tensor, power: float = FLATTENING) -> Self:
        """The map after which the mean squares of embeddings x (n, dim) along their principal axes are those before to the
        power `1 - power`, up to the last normalisation: `W = V diag(l)^(-power / 2) V^T` of `x^T x / n = V diag(l) V^T`.

        Nothing is centred: what all embeddings have in common is the largest of those directions, and shrinks most.

        Raises:
            ValueError: fewer than `dim` embeddings, or a power outside 0 to 1.
        """
        if x.ndim != 2 or len(x) < x.shape[1]:
            raise ValueError(
                f"a spectrum of {x.shape[-1]} dimensions is that of at least as many embeddings, not {len(x)}"
            )
        if not 0 <= power <= 1:
            raise ValueError(f"a spectrum is flattened by a power of 0 to 1, not {power}")
        unit = unit_vectors(x.detach().cpu()).double()
        squares, axes = torch.linalg.eigh(unit.T @ unit / len(unit))
        relative = (squares / squares.mean()).clamp(min=LEAST_VARIANCE)
        return cls(((axes * relative ** (-power / 2)) @ axes.T).float())

    def then(self, other: Self) -> Self:
        """Both maps in one: this one first."""
        return type(self)(self.matrix @ other.matrix)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., dim) mapped, of length 1, in x's dtype; without gradients whatever stands beside a vector."""
        if torch.is_grad_enabled() and x.requires_grad:
            return unit_vectors(x.float() @ self.matrix.to(x.device)).to(x.dtype)
        return unit_vectors(self._exact(x)).to(x)

    @cached_property
    def _exact(self) -> ExactProduct:
        return ExactProduct(self.matrix)
