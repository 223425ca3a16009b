"""The ways to store an embedding, by name: how many bytes it takes and which bytes they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.storage.bit_packing import codes_of_bytes, expand_bytes, pack_bits, packed_width
from bitembed_core.storage.output_quantizer import decode_codes, output_codes

if TYPE_CHECKING:
    from bitembed_core.storage.packed import PackedEmbeddings

BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "int2": 2, "binary": 1}
PRECISIONS = tuple(BITS)
FLOATS: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
SCALE_BYTES = 4
CHUNK_VALUES = 2**18  # rows are expanded to float32 in chunks of about this many values, 1 MiB


@dataclass(frozen=True)
class StorageFormat:
    """One precision at one dimension.

    `float32` and `float16` store little-endian values. `int8`, `int4`, `int2` and `binary` store the codes
    of Eq 10 and 11 (`output_quantizer`), packed into bytes (`bit_packing`), and one float32 scale per vector.

    Args:
        name: one of PRECISIONS.
        dim: values per embedding.
    """

    name: str
    dim: int

    def __post_init__(self) -> None:
        if self.name not in BITS:
            raise ValueError(f"unknown precision {self.name!r}; choose one of {', '.join(PRECISIONS)}")
        if self.dim < 1:
            raise ValueError(f"an embedding has at least one dimension, not {self.dim}")

    @property
    def bits(self) -> int:
        """Bits per value."""
        return BITS[self.name]

    @property
    def has_scale(self) -> bool:
        """Whether each vector has a float32 scale besides its codes."""
        return self.name not in FLOATS

    @property
    def code_bytes(self) -> int:
        """Bytes of one vector's codes."""
        return packed_width(self.dim, self.bits) if self.has_scale else self.dim * self.bits // 8

    @property
    def bytes_per_vector(self) -> int:
        """Everything that is stored per vector, in bytes, scale included."""
        return self.code_bytes + (SCALE_BYTES if self.has_scale else 0)

    def encode(self, x: NDArray[np.floating] | Tensor) -> "PackedEmbeddings":
        """Store the rows of `x` (n, dim), floating point, numpy or torch.

        Raises:
            ValueError: not a floating-point matrix of this dimension, or values that are NaN, infinite or
                too large for the format.
        """
        from bitembed_core.storage.packed import PackedEmbeddings

        x = as_float_matrix(x, self.dim)
        codes = np.empty((len(x), self.code_bytes), dtype=np.uint8)
        scales = np.empty(len(x), dtype=np.float32) if self.has_scale else None
        for rows in row_chunks(len(x), self.dim):
            with np.errstate(over="ignore"):
                values = x[rows].astype(FLOATS.get(self.name, np.dtype(np.float32)))
            if not np.isfinite(values).all():
                bad = rows.start + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
                raise ValueError(
                    f"embedding {bad} has values that are NaN, infinite or too large for {self.name}"
                )
            if scales is None:
                codes[rows] = np.ascontiguousarray(values).view(np.uint8)
            else:
                row_codes, row_scales = output_codes(torch.from_numpy(values), self.bits)
                codes[rows] = pack_bits(row_codes.numpy(), self.bits)
                scales[rows] = row_scales.numpy()[:, 0]
        return PackedEmbeddings(self, codes, scales)

    def unscaled(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The float32 values (n, dim) of codes (n, code_bytes) before each vector's scale is applied."""
        if not self.has_scale:
            values = np.ascontiguousarray(codes).view(FLOATS[self.name])
            return values.astype(np.float32)
        return expand_bytes(values_of_bytes(self.bits), codes)[:, : self.dim]


def as_float_matrix(x: NDArray[np.floating] | Tensor, dim: int, name: str = "embeddings") -> NDArray[Any]:
    """`x` as a floating-point numpy matrix (n, dim); ValueError, calling it `name`, when it is not one."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} must be floating point, got {x.dtype}")
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"{name} must be (n, {dim}), got {x.shape}")
    return x


def row_chunks(n: int, dim: int) -> Iterator[slice]:
    """Slices that cover n rows of `dim` values, each small enough to be expanded to float32 at once."""
    step = max(1, CHUNK_VALUES // dim)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


@cache
def values_of_bytes(bits: int) -> NDArray[np.float32]:
    """Table (256, 8 / bits): the values in [-1, 1] that each byte's codes stand for at scale 1."""
    codes = torch.from_numpy(codes_of_bytes(bits).copy())
    table = decode_codes(codes, torch.ones(len(codes), 1), bits).numpy()
    table.setflags(write=False)
    return table
