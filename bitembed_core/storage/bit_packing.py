"""Codes of 1, 2, 4 or 8 bits in bytes, row by row, the first code in the highest bits of the first byte.

One bit per code is numpy's own `packbits` order, which vector stores call `ubinary`. Rows end on a byte
boundary; the bits left over are zero.
"""

from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

CODE_BITS = (1, 2, 4, 8)

Scalar = TypeVar("Scalar", bound=np.generic)


def packed_width(dim: int, bits: int) -> int:
    """Bytes per row of `dim` codes: `ceil(dim * bits / 8)`."""
    if bits not in CODE_BITS:
        raise ValueError(f"codes are packed with {CODE_BITS} bits each, not {bits}")
    return -(-dim * bits // 8)


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack uint8 codes (n, d) in 0 .. 2^bits - 1 into uint8 (n, ceil(d * bits / 8)).

    Raises:
        ValueError: wrong dtype or shape, or a code that does not fit.
    """
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise ValueError(f"codes must be a uint8 matrix (n, d), got {codes.dtype} {codes.shape}")
    n, dim = codes.shape
    width = packed_width(dim, bits)
    if codes.size and codes.max() >> bits:
        raise ValueError(f"code {codes.max()} does not fit into {bits} bits")
    packed = np.zeros((n, width), dtype=np.uint8)
    per_byte = 8 // bits
    for position in range(per_byte):
        at_position = codes[:, position::per_byte]
        packed[:, : at_position.shape[1]] |= at_position << (8 - bits * (position + 1))
    return packed


def unpack_bits(packed: NDArray[np.uint8], bits: int, dim: int) -> NDArray[np.uint8]:
    """The codes uint8 (n, dim) in packed rows uint8 (n, ceil(dim * bits / 8)); the inverse of `pack_bits`.

    Raises:
        ValueError: the rows do not have that many bytes.
    """
    width = packed_width(dim, bits)
    if packed.ndim != 2 or packed.dtype != np.uint8 or packed.shape[1] != width:
        raise ValueError(
            f"{dim} codes of {bits} bits are rows of {width} bytes, got {packed.dtype} {packed.shape}"
        )
    return expand_bytes(codes_of_bytes(bits), packed)[:, :dim]


def expand_bytes(table: NDArray[Scalar], packed: NDArray[np.uint8]) -> NDArray[Scalar]:
    """Replace every byte of `packed` (n, width) by its row of `table` (256, k): (n, width * k)."""
    n, width = packed.shape
    return np.take(table, packed, axis=0).reshape(n, width * table.shape[1])


@cache
def codes_of_bytes(bits: int) -> NDArray[np.uint8]:
    """Table (256, 8 / bits): the codes that each byte holds, in order."""
    shifts = np.arange(8 - bits, -1, -bits)
    table = (np.arange(256)[:, None] >> shifts & (2**bits - 1)).astype(np.uint8)
    table.setflags(write=False)
    return table
