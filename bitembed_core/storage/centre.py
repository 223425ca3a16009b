"""Taking what all embeddings have in common out of them, before they are rotated and rounded.

Embeddings of language models tend to lie in a narrow cone, above all after a short training. Of a code of one or two bits a
component most then says the same about every text. Without their mean the vectors point in all directions, and codes tell
texts apart (after Mu and Viswanath, arXiv 1702.01417, who take leading directions out too). Cosines change, so that both
sides need it: a centre belongs to the model.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bitembed_core.exact_product import in_float64
from bitembed_core.similarity import unit_vectors

# Of the mean. The more is taken out, the less rounding takes and the more the unrounded vectors lose.
SHARE = 0.8


@dataclass(frozen=True, eq=False)
class Centre:
    """`x -> (x - c) / |x - c|` of embeddings x of length 1.

    Args:
        vector: c, float32 (dim,), shorter than 1.

    Raises:
        ValueError: another shape or dtype, or a length of 1 or more: an embedding could be at c itself.
    """

    vector: Tensor

    def __post_init__(self) -> None:
        c = self.vector
        if c.ndim != 1 or c.dtype != torch.float32:
            raise ValueError(f"a centre is a float32 vector, not {c.dtype} {tuple(c.shape)}")
        if not c.norm() < 1:
            raise ValueError("a centre is shorter than the embeddings of length 1 around it: damaged")

    @property
    def dim(self) -> int:
        return len(self.vector)

    @classmethod
    def of(cls, x: Tensor, share: float = SHARE) -> Self:
        """`share` of the mean of embeddings x (n, dim), which count at length 1.

        Raises:
            ValueError: no embeddings, or a share outside 0 to 1.
        """
        if x.ndim != 2 or not len(x):
            raise ValueError(f"a centre is that of embeddings (n, dim), n > 0, not {tuple(x.shape)}")
        if not 0 <= share <= 1:
            raise ValueError(f"the share of the mean that is taken out is 0 to 1, not {share}")
        return cls((share * unit_vectors(x.detach().cpu()).double().mean(dim=0)).float())

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., dim) around the centre, of length 1, in x's dtype."""
        wide = in_float64(x)
        return unit_vectors(wide - self.vector.to(wide)).to(x)
