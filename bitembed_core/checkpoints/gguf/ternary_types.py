"""Ternary weights as ggml stores them: I2_S (the published runtime), TQ2_0 and TQ1_0 (llama.cpp).

I2_S: 128 weights are 32 bytes; byte p holds the weights p, p + 32, p + 64 and p + 96, the first in the two highest bits,
each as `code + 1`. After a tensor's n / 4 bytes come 32 more, of which the first four are its scale in float32.

TQ2_0: a block of 256 weights of a row is 64 bytes and a float16 scale; byte p of each half block holds the weights p,
p + 32, p + 64 and p + 96, the first in the two lowest bits, each as `code + 1`.

TQ1_0: a block of 256 weights of a row is 52 bytes and a float16 scale. Five weights (in the last four bytes four) are the
digits of a number in base 3, the first the highest; a byte holds that number times 256 / 243, rounded up.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.checkpoints.gguf.container import I2_S, I2_S_TAIL, TQ1_0, TQ2_0

Bytes = NDArray[np.uint8]
Integers = NDArray[np.integer]
SMALLEST_SCALE = 1e-5  # what the published converter writes for a tensor of zeros
I2_S_BLOCK, TQ_BLOCK = 128, 256
I2_S_SHIFTS = np.array([6, 4, 2, 0], dtype=np.uint8)[:, None]
TQ2_0_SHIFTS = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
POWERS_OF_3 = np.array([1, 3, 9, 27, 81], dtype=np.uint8)
TQ1_0_GROUPS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))  # first byte, bytes, weights in each


def encode_i2_s(codes: Tensor, scale: Tensor) -> Bytes:
    """int8 codes (out, in) and their scale () -> bytes.

    Raises:
        ValueError: the number of weights is no multiple of 128.
    """
    if codes.numel() % I2_S_BLOCK:
        raise ValueError(f"I2_S holds weights by the {I2_S_BLOCK}; {tuple(codes.shape)} cannot be written")
    fields = (codes + 1).to(torch.uint8).numpy().reshape(-1, 4, 32)
    packed = np.bitwise_or.reduce(fields << I2_S_SHIFTS, axis=1).reshape(-1)
    tail = np.zeros(I2_S_TAIL, dtype=np.uint8)
    tail[:4] = np.array([float(scale) or SMALLEST_SCALE], dtype="<f4").view(np.uint8)
    return np.concatenate([packed, tail])


def decode_i2_s(data: Bytes, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bytes -> int8 codes (out, in) and their scale ().

    Raises:
        ValueError: a field that is no code, or a scale that is not a positive number.
    """
    packed = data[:-I2_S_TAIL].reshape(-1, 1, 32)
    fields = (packed >> I2_S_SHIFTS) & 3
    scale = data[-I2_S_TAIL:][:4].view("<f4")[0]
    return _codes(fields, shape), _positive(scale)


def encode_tq2_0(codes: Tensor, scale: Tensor) -> Bytes:
    """int8 codes (out, in), in a multiple of 256, and their scale () -> bytes."""
    fields = _blocks(codes).reshape(-1, 2, 4, 32)
    packed = np.bitwise_or.reduce(fields << TQ2_0_SHIFTS, axis=2).reshape(-1, 64)
    return _with_scale(packed, scale)


def decode_tq2_0(data: Bytes, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bytes -> int8 codes (out, in) and their one scale (); ValueError as in `decode_i2_s`, or when scales differ."""
    blocks = data.reshape(-1, 66)
    fields = (blocks[:, :64].reshape(-1, 2, 1, 32) >> TQ2_0_SHIFTS) & 3
    return _codes(fields, shape), _one_scale(blocks[:, 64:], fields.reshape(len(blocks), -1))


def encode_tq1_0(codes: Tensor, scale: Tensor) -> Bytes:
    """int8 codes (out, in), in a multiple of 256, and their scale () -> bytes."""
    fields = _blocks(codes).astype(np.uint16)
    parts, start = [], 0
    for _, width, digits in TQ1_0_GROUPS:
        group = fields[:, start : start + width * digits].reshape(-1, digits, width)
        start += width * digits
        number: Integers = np.zeros((len(fields), width), dtype=np.uint16)
        for digit in range(5):
            number = number * 3 + (group[:, digit] if digit < digits else 0)
        parts.append(((number.astype(np.uint32) * 256 + 242) // 243).astype(np.uint8))
    return _with_scale(np.concatenate(parts, axis=1), scale)


def decode_tq1_0(data: Bytes, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Bytes -> int8 codes (out, in) and their one scale (); ValueError as in `decode_tq2_0`."""
    blocks = data.reshape(-1, 54)
    parts = []
    for first, width, digits in TQ1_0_GROUPS:
        group = (
            blocks[:, None, first : first + width] * POWERS_OF_3[:digits, None]
        )  # modulo 256: digits fall off
        parts.append(((group.astype(np.uint16) * 3) >> 8).astype(np.uint8).reshape(len(blocks), -1))
    fields = np.concatenate(parts, axis=1)
    return _codes(fields, shape), _one_scale(blocks[:, 52:], fields)


class TernaryType(NamedTuple):
    """A ggml type for ternary weights, its two directions, and the multiple that a row's length has to be."""

    type: int
    encode: Callable[[Tensor, Tensor], Bytes]
    decode: Callable[[Bytes, tuple[int, int]], tuple[Tensor, Tensor]]
    row_multiple: int


TERNARY_TYPES = {
    "i2_s": TernaryType(I2_S, encode_i2_s, decode_i2_s, I2_S_BLOCK),
    "tq2_0": TernaryType(TQ2_0, encode_tq2_0, decode_tq2_0, TQ_BLOCK),
    "tq1_0": TernaryType(TQ1_0, encode_tq1_0, decode_tq1_0, TQ_BLOCK),
}


def _blocks(codes: Tensor) -> Bytes:
    if codes.shape[1] % TQ_BLOCK:
        raise ValueError(
            f"this type holds rows by the {TQ_BLOCK} weights; {tuple(codes.shape)} cannot be written"
        )
    return (codes + 1).to(torch.uint8).numpy().reshape(-1, TQ_BLOCK)


def _with_scale(packed: Bytes, scale: Tensor) -> Bytes:
    half = np.array([float(scale)], dtype="<f2").view(np.uint8)
    return np.concatenate([packed, np.broadcast_to(half, (len(packed), 2))], axis=1).reshape(-1)


def _codes(fields: Integers, shape: tuple[int, int]) -> Tensor:
    if fields.size and fields.max() > 2:
        raise ValueError("a weight has the field 3, which is no ternary code: the file is damaged")
    return torch.from_numpy(fields.astype(np.int8).reshape(shape)) - 1


def _positive(scale: np.floating) -> Tensor:
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(
            f"a tensor has the scale {scale}, which is not a positive number: the file is damaged"
        )
    return torch.tensor(float(scale))


def _one_scale(stored: Bytes, fields: Integers) -> Tensor:
    scales = np.ascontiguousarray(stored).view("<f2").astype(np.float32).reshape(-1)
    used = np.unique(scales[(fields != 1).any(axis=1)])
    if len(used) > 1:
        raise ValueError(
            "the blocks of a tensor have different scales, so that it is not ternary with one scale"
        )
    return _positive(used[0]) if len(used) else torch.tensor(SMALLEST_SCALE)
