"""The scores with codes expanded: what the kernels are tested against."""

from typing import NamedTuple

import torch
from torch import Tensor

from bitembed_core.ops.trellis import Graded, Trellis, levels
from bitembed_core.similarity import inner_products, unit_vectors


class Documents(NamedTuple):
    """Packed embeddings as kernels take them: a code z of `bits` bits stands for `2 z - top`, times the row's weight. With a
    trellis z is looked up first.

    The weight of a format with scales is 1 over the length of a row's values, so that scores are cosines, and 0 for a row
    that is zero; that of a fitted format is its correction.
    """

    codes_NB: Tensor  # uint8, contiguous
    weight_N: Tensor  # float32, contiguous
    bits: int
    top: int
    longest: float  # the largest length of a row's weighted values
    kept: int  # codes of a row
    trellis: Trellis | Graded | None = None

    def part(self, rows: slice | Tensor) -> "Documents":
        """Some of them."""
        return self._replace(codes_NB=self.codes_NB[rows], weight_N=self.weight_N[rows])

    def looked_up(self) -> "Documents":
        """The same without a trellis, a byte for each code."""
        if self.trellis is None:
            return self
        return self._replace(codes_NB=levels(self.codes_NB, self.kept, self.trellis), trellis=None)

    def values(self) -> Tensor:
        """float32 (n, kept), before the weights."""
        return values(self.looked_up().codes_NB, self.bits, self.top, self.kept)


def packed_scores(queries_QD: Tensor, codes_NB: Tensor, weight_N: Tensor, bits: int, top: int) -> Tensor:
    """Scores (q, n) of the directions of queries, float32 or int8 codes, with documents (see `Documents`)."""
    unit_QD = unit_vectors(queries_QD.float())
    return inner_products(unit_QD, values(codes_NB, bits, top, queries_QD.shape[1])) * weight_N


def values(codes: Tensor, bits: int, top: int, dim: int) -> Tensor:
    """float32 (..., dim): the values `2 z - top` of packed codes (..., bytes)."""
    shifts = torch.arange(8 - bits, -1, -bits, device=codes.device)
    levels = ((codes[..., None].int() >> shifts) & (2**bits - 1)).flatten(-2)[..., :dim]
    return (2 * levels - top).float()
