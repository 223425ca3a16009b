"""Ternary weights at two bits: four codes in a byte, on disk and nowhere else.

Byte j of a row holds the weights 4j to 4j + 3, the first one in the two lowest bits, each as `code + 1` (0, 1 or 2).
A row whose length is not a multiple of four is filled up with code 0. The layout is the same on every machine.
"""

import torch
from torch import Tensor

from bitembed_core.ops import library

SHIFTS = (0, 2, 4, 6)


def packed_width(in_features: int) -> int:
    """Bytes in a packed row of `in_features` weights."""
    return (in_features + 3) // 4


def pack_ternary(codes: Tensor) -> Tensor:
    """int8 codes (out, in) in {-1, 0, 1} -> uint8 (out, ceil(in / 4)).

    Raises:
        ValueError: a code is not ternary.
    """
    if codes.numel() and (codes.min() < -1 or codes.max() > 1):
        raise ValueError("only the codes -1, 0 and 1 can be packed")
    padding = -codes.shape[-1] % 4
    fields = torch.nn.functional.pad(codes, (0, padding)).add(1).to(torch.uint8).unflatten(-1, (-1, 4))
    packed = torch.zeros(fields.shape[:-1], dtype=torch.uint8, device=codes.device)
    for position, shift in enumerate(SHIFTS):
        packed |= fields[..., position] << shift
    return packed


def unpack_ternary(packed: Tensor, in_features: int) -> Tensor:
    """uint8 (out, ceil(in / 4)) -> int8 codes (out, in).

    Raises:
        ValueError: the rows do not hold `in_features` weights, or a field is not a ternary code.
    """
    if packed.shape[-1] != packed_width(in_features):
        raise ValueError(f"rows of {packed.shape[-1]} bytes cannot hold {in_features} ternary weights")
    check_packed(packed)
    fields = torch.stack([(packed >> shift) & 3 for shift in SHIFTS], dim=-1).flatten(-2)[..., :in_features]
    return fields.to(torch.int8) - 1


def check_packed(packed: Tensor, name: str = "the packed weights") -> None:
    """Look for fields that hold 3, which is no ternary code.

    Raises:
        ValueError: there is one, in `name`.
    """
    if packed.device.type == "cpu" and packed.is_contiguous() and library.available():
        bad = (
            library.native().bitembed_any_field_3(library.pointer(packed), packed.numel(), library.threads())
            != 0
        )
    else:
        bad = bool((packed & (packed >> 1) & 0b01010101).any())
    if bad:
        raise ValueError(f"{name} contains the field 3, which is no ternary code: the file is damaged")
