"""Two trellis codes in one: components that come first have more bits, those at the end none.

Embeddings turned to their principal axes have their largest components first, and a bit there takes more of the error than
one further down (reverse water-filling; Cover and Thomas, Elements of Information Theory, 10.3.3). Of the bytes that one
bit for every component takes, about two thirds go to the leading third at two bits, one third to the next third at one bit,
and a byte says how large the second part is beside the first, so that a vector still has one scale. Each part runs from its
last component to its first: the first values of a string have few windows to choose from, which costs least where
components are small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bitembed_core.ops.trellis import reference
from bitembed_core.ops.trellis.reference import TOP, Trellis

STEPS_OF_A_DOUBLING = 32
ONE = 256
EVEN = 128  # the byte of two parts of one size; 0 and 255 are those of a part that is zero


@dataclass(frozen=True, eq=False)
class Graded:
    """A code of one bit per component of the whole vector.

    Args:
        first: of two bits a value. second: of one.
    """

    first: Trellis
    second: Trellis

    bits = 1.0

    def kept(self, dim: int) -> int:
        """How many of a vector's first components are stored."""
        return min(dim, _capacity(max(2, -(-dim // 8))))

    def code_bytes(self, kept: int) -> int:
        """Bytes of a vector's code: both parts' and the byte of their sizes."""
        size = 2
        while _capacity(size) < kept:
            size += 1
        return size

    def parts(self, kept: int) -> tuple[int, int]:
        """Components of the first and of the second part."""
        first = min(kept, 4 * _bytes(self.code_bytes(kept))[0])
        return first, kept - first


def _bytes(size: int) -> tuple[int, int]:
    """Of `size` bytes those of the first and of the second part."""
    second = size // 3
    return size - 1 - second, second


def _capacity(size: int) -> int:
    """Components for which `size` bytes are enough."""
    first, second = _bytes(size)
    return 4 * first + 8 * second


def _factors() -> Tensor:
    """Of each byte of sizes what the values of both parts are multiplied with, in 256ths: int32 (256, 2)."""
    ratios = 2.0 ** ((torch.arange(256, dtype=torch.float64) - EVEN) / STEPS_OF_A_DOUBLING)
    both = torch.stack([(1 / ratios).clamp(max=1), ratios.clamp(max=1)], dim=1)
    both[0], both[255] = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    return (both * ONE).round().int()


FACTORS = _factors()


def size_bytes(scales_N2: Tensor) -> Tensor:
    """The bytes uint8 (n,) that say how large the second part's scale is beside the first's."""
    first, second = scales_N2.double().unbind(dim=1)
    safe = torch.where((first > 0) & (second > 0), second / first, 1)
    steps = (STEPS_OF_A_DOUBLING * safe.log2()).round() + EVEN
    steps = steps.clamp(1, 254)
    steps = torch.where(second > 0, steps, 0)
    return torch.where((first > 0) | (second <= 0), steps, 255).to(torch.uint8)


def levels(codes_NB: Tensor, kept: int, graded: Graded) -> Tensor:
    """The levels uint8 (n, kept) of codes (n, code_bytes), those of both parts on the scale that they share: z stands for
    `2 z - 255`, which is rounded to the nearest such value."""
    first, second = graded.parts(kept)
    width = graded.first.code_bytes(first)
    strings = codes_NB[:, :width], codes_NB[:, width:-1]
    factors_N2 = FACTORS.to(codes_NB.device)[codes_NB[:, -1].long()]
    parts = []
    for string, dim, code, factor_N in zip(
        strings, (first, second), (graded.first, graded.second), factors_N2.unbind(1), strict=True
    ):
        values_ND = 2 * reference.levels(string, dim, code).flip(1).int() - TOP
        parts.append(((factor_N[:, None] * values_ND + (ONE * ONE)) >> 9).to(torch.uint8))
    return torch.cat(parts, dim=1)
