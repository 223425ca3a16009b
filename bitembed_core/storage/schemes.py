"""How the values of an embedding become codes, and codes bytes.

A code z of 0 .. m stands for `2 z / m - 1` times a number that each vector has. In the paper's formats (Eq 10 and 11) this
number is the vector's largest component. In the others it is a correction, as in RaBitQ (arXiv 2405.12497): with v the
values of x's codes it is `|x| / <x, v>`, so that a query's inner product with what is stored is right for queries in x's
direction, and without bias for others; and the codes are those whose values v have the largest cosine with x.

Trellis formats (`ops.trellis`) have that correction too, but values share their bits: a code is found for the vector as a
whole, and stands for values `2 z / 255 - 1` that are looked up. A graded format has two of them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.ops import trellis
from bitembed_core.ops.trellis.tables import GradedCode, TrellisCode
from bitembed_core.storage.bit_packing import codes_of_bytes, expand_bytes, pack_bits

FITTED = {
    "int4-fitted": 15,
    "int2-fitted": 3,
    "ternary-fitted": 2,
    "binary-fitted": 1,
}  # name -> largest code
TRITS = 5  # in a byte: 3^5 = 243
# Clips that are tried, in root mean squares of the vector. The best ones of normally distributed values are 1.49 and 2.51.
CLIPS = {
    3: (1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8),
    15: (1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5),
}


@dataclass(frozen=True)
class Scheme:
    """Codes of one format.

    Args:
        top: m, the largest code: 1, 3, 15 or 255 for 1, 2, 4 or 8 bits; 2 for -1, 0 and 1.
        fitted: codes and number are fitted to the vector; otherwise the paper's.
        trellis: how values share bits; then `top` is that of what is looked up.
    """

    top: int
    fitted: bool = False
    trellis: TrellisCode | GradedCode | None = None

    @property
    def places(self) -> int:
        """Codes in a byte."""
        return TRITS if self.top == 2 else 8 // self.top.bit_length()

    @property
    def bits(self) -> float:
        """Bits per value."""
        return 8 / self.places if self.trellis is None else self.trellis.trellis.bits

    def kept(self, dim: int) -> int:
        """How many of a vector's `dim` components are stored: all, but for graded codes."""
        return self.trellis.trellis.kept(dim) if isinstance(self.trellis, GradedCode) else dim

    def code_bytes(self, dim: int) -> int:
        """Bytes of one vector's codes, of the `dim` components that are stored."""
        return -(-dim // self.places) if self.trellis is None else self.trellis.trellis.code_bytes(dim)

    def pack(self, codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Codes (n, d) -> bytes (n, code_bytes), the first code in the highest place."""
        if self.top != 2:
            return pack_bits(codes, 8 // self.places)
        filled = np.pad(codes, ((0, 0), (0, -codes.shape[1] % TRITS)))
        powers = 3 ** np.arange(TRITS - 1, -1, -1, dtype=np.uint8)
        return (filled.reshape(len(codes), -1, TRITS) * powers).sum(axis=2, dtype=np.uint8)

    def codes(self, packed: NDArray[np.uint8], dim: int) -> NDArray[np.uint8]:
        """The codes (n, dim) again, or what is looked up with those of a trellis."""
        if self.trellis is not None:
            return trellis.levels(
                torch.from_numpy(np.ascontiguousarray(packed)), dim, self.trellis.trellis
            ).numpy()
        return expand_bytes(codes_table(self.top), packed)[:, :dim]


@cache
def codes_table(top: int) -> NDArray[np.uint8]:
    """Table (256, places): the codes that each byte holds, in order."""
    if top != 2:
        return codes_of_bytes(top.bit_length())
    powers = 3 ** np.arange(TRITS - 1, -1, -1)
    table = (np.arange(256)[:, None] // powers % 3).astype(np.uint8)
    table.setflags(write=False)
    return table


@cache
def values_table(top: int) -> NDArray[np.float32]:
    """Table (256, places): the values in [-1, 1] that each byte's codes stand for."""
    table = (2 * codes_table(top).astype(np.float32)) / np.float32(top) - 1
    table.setflags(write=False)
    return table


def fitted_codes(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Codes uint8 (n, d) of vectors (n, d) whose values have a large cosine with them, and the correction float32 (n, 1).

    One bit is the sign; of three values the best threshold is found exactly; of more, the best of a few clips and the
    largest component. A zero vector gets correction 0.
    """
    largest = x.float().abs().amax(dim=1, keepdim=True)
    x = x.float() / torch.where(largest > 0, largest, 1)  # so that no square overflows or vanishes
    if top == 1:
        codes = (x >= 0).to(torch.uint8)
    elif top == 2:
        codes = _ternary_codes(x)
    else:
        codes = _clipped_codes(x, top)
    return codes, _correction(x, 2 * codes.float() / top - 1)


def trellis_codes(x: Tensor, code: TrellisCode | GradedCode) -> tuple[Tensor, Tensor]:
    """Packed codes uint8 (n, code_bytes) of vectors (n, d), and the correction float32 (n, 1); 0 for a zero vector."""
    x = x.float().contiguous()  # sums, and so codes, do not depend on the layout
    largest = x.abs().amax(dim=1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    codes = _closest(x, code) if isinstance(code, TrellisCode) else _graded(x, code)
    return codes, _correction(x, values_of(codes, x.shape[1], code.trellis))


def values_of(codes: Tensor, dim: int, code: trellis.Trellis | trellis.Graded) -> Tensor:
    """The values (n, dim) in [-1, 1] that packed codes stand for."""
    return 2 * trellis.levels(codes, dim, code).float() / trellis.TOP - 1


def fake_quantized(e: Tensor, scheme: Scheme) -> Tensor:
    """The values (..., d) that the codes of e (..., d) in a fitted scheme stand for, at e's length: those that it keeps."""
    flat = e.reshape(-1, e.shape[-1])[:, : scheme.kept(e.shape[-1])].float()
    if scheme.trellis is None:
        codes, correction = fitted_codes(flat, scheme.top)
        values = 2 * codes.float() / scheme.top - 1
    else:
        packed, correction = trellis_codes(flat, scheme.trellis)
        values = values_of(packed, flat.shape[1], scheme.trellis.trellis)
    return (values * correction * flat.norm(dim=1, keepdim=True)).view(*e.shape[:-1], flat.shape[1])


def _closest(x: Tensor, code: TrellisCode) -> Tensor:
    """The codes of a trellis that come closest to vectors (n, d)."""
    rms = x.square().mean(dim=1, keepdim=True).sqrt()
    targets = x / torch.where(rms > 0, rms, 1) * (trellis.TOP / code.reach)
    largest_target = trellis.LARGEST_TARGET
    return trellis.encode(targets.round().clamp(-largest_target, largest_target).short(), code.trellis)


def _graded(x: Tensor, code: GradedCode) -> Tensor:
    """The codes of both parts of vectors (n, kept), each found by itself, and the byte of their sizes.

    A part's size is such that the inner product of the part with its values is right.
    """
    packed, scales = [], []
    parts = [part.flip(1) for part in x.split(code.trellis.parts(x.shape[1]), dim=1)]
    for part, own in zip(parts, (code.first, code.second), strict=True):
        codes = _closest(part, own)
        inner = (part * values_of(codes, part.shape[1], own.trellis)).sum(dim=1)
        scales.append(torch.where(inner > 0, part.square().sum(dim=1) / torch.where(inner > 0, inner, 1), 0))
        packed.append(codes)
    return torch.cat([*packed, trellis.size_bytes(torch.stack(scales, dim=1))[:, None]], dim=1)


def _correction(x: Tensor, values: Tensor) -> Tensor:
    """`|x| / <x, v>` (n, 1), or 0 where that is none."""
    inner = (x * values).sum(dim=1, keepdim=True)
    return torch.where(inner > 0, x.norm(dim=1, keepdim=True) / torch.where(inner > 0, inner, 1), 0)


def _ternary_codes(x: Tensor) -> Tensor:
    """The k largest components at +-1, the rest 0: their cosine is `sum of their sizes / sqrt(k)`, largest for one k."""
    sizes = x.abs().sort(dim=1, descending=True).values
    kept = torch.arange(1, x.shape[1] + 1, device=x.device)
    best = (sizes.cumsum(dim=1) / kept.sqrt()).argmax(dim=1, keepdim=True)
    threshold = sizes.gather(1, best)
    outside = (x.abs() >= threshold) & (threshold > 0)
    return (x.sign() * outside + 1).to(torch.uint8)


def _clipped_codes(x: Tensor, top: int) -> Tensor:
    rms = x.square().mean(dim=1, keepdim=True).sqrt()
    largest = x.abs().amax(dim=1, keepdim=True)
    best_codes, best_cosine = torch.zeros_like(x, dtype=torch.uint8), torch.full_like(rms, -1)
    for clip in (largest, *(factor * rms for factor in CLIPS[top])):
        relative = (x / torch.where(clip > 0, clip, 1)).clamp(-1, 1)
        codes = ((relative + 1) / 2 * top).round().to(torch.uint8)
        values = 2 * codes.float() / top - 1
        cosine = (x * values).sum(dim=1, keepdim=True) / values.norm(dim=1, keepdim=True)
        better = cosine > best_cosine
        best_codes = torch.where(better, codes, best_codes)
        best_cosine = torch.where(better, cosine, best_cosine)
    return best_codes
