"""The ways to store an embedding, by name: how many bytes it takes and which bytes they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.storage.bit_packing import expand_bytes
from bitembed_core.storage.output_quantizer import output_codes
from bitembed_core.storage.precisions import FLOATS, PRECISIONS, SCHEMES, is_precision, split_name
from bitembed_core.storage.schemes import Scheme, fitted_codes, trellis_codes, values_table

if TYPE_CHECKING:
    from bitembed_core.storage.packed import PackedEmbeddings

SCALE_BYTES = 4
CHUNK_VALUES = 2**18  # rows are expanded to float32 in chunks of about this many values, 1 MiB


@dataclass(frozen=True)
class StorageFormat:
    """One precision at one dimension.

    `float32` and `float16` store little-endian values. `int8`, `int4`, `int2` and `binary` store the codes
    of Eq 10 and 11 (`output_quantizer`), packed into bytes (`bit_packing`), and one float32 scale per vector.
    `int4-fitted`, `int2-fitted`, `binary-fitted` and `ternary-fitted` (1.6 bits) take as many bytes and keep more: codes
    are fitted to the vector, and the float32 is a correction (`schemes`). They store directions: what they decode to has a
    length of about 1. `trellis-2bit`, `trellis-1.5bit` and `trellis-1bit` are fitted too, and keep still more at the same
    bytes: values share bits. They suit embeddings whose components are alike, as after a rotation. `graded-1bit` has two
    bits for about the first third of the components, one for the second and none for the rest: after a rotation to
    principal axes (`Rotation.principal`) it keeps most at the bytes of one bit for each.

    A name followed by `-128d` keeps the first 128 components only (Matryoshka, arXiv 2205.13147) and decodes the others as
    zero; queries are compared by their first components too. That pays for models trained for it and after a rotation to
    principal axes (`Rotation.principal`).

    Args:
        name: one of PRECISIONS, shortened or not.
        dim: values per embedding.
    """

    name: str
    dim: int

    def __post_init__(self) -> None:
        if not is_precision(self.name):
            raise ValueError(
                f"unknown precision {self.name!r}; choose one of {', '.join(PRECISIONS)}, or a shortened one such as "
                "int8-128d"
            )
        if self.dim < 1:
            raise ValueError(f"an embedding has at least one dimension, not {self.dim}")
        if (split_name(self.name)[1] or 0) > self.dim:
            raise ValueError(f"{self.name} keeps more than the {self.dim} dimensions that there are")

    @property
    def precision(self) -> str:
        """The name without what shortens: one of PRECISIONS."""
        return split_name(self.name)[0]

    @property
    def kept(self) -> int:
        """Components that are stored."""
        shortened = split_name(self.name)[1] or self.dim
        return shortened if self.scheme is None else self.scheme.kept(shortened)

    @property
    def scheme(self) -> Scheme | None:
        """What the codes mean; None for the float formats."""
        return SCHEMES.get(self.precision)

    @property
    def bits(self) -> float:
        """Bits per value."""
        return 8 * FLOATS[self.precision].itemsize if self.scheme is None else self.scheme.bits

    @property
    def has_scale(self) -> bool:
        """Whether each vector has a float32 scale or correction besides its codes."""
        return self.scheme is not None

    @property
    def code_bytes(self) -> int:
        """Bytes of one vector's codes."""
        if self.scheme is None:
            return self.kept * FLOATS[self.precision].itemsize
        return self.scheme.code_bytes(self.kept)

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
                values = x[rows].astype(FLOATS.get(self.precision, np.dtype(np.float32)))
            if not np.isfinite(values).all():
                bad = rows.start + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
                raise ValueError(
                    f"embedding {bad} has values that are NaN, infinite or too large for {self.name}"
                )
            values = values[:, : self.kept]
            if self.scheme is None or scales is None:
                codes[rows] = np.ascontiguousarray(values).view(np.uint8)
                continue
            if self.scheme.trellis is not None:
                packed, row_scales = trellis_codes(torch.from_numpy(values), self.scheme.trellis)
                codes[rows], scales[rows] = packed.numpy(), row_scales.numpy()[:, 0]
                continue
            encode = fitted_codes if self.scheme.fitted else output_codes
            argument = self.scheme.top if self.scheme.fitted else int(self.bits)
            row_codes, row_scales = encode(torch.from_numpy(values), argument)
            codes[rows] = self.scheme.pack(row_codes.numpy())
            scales[rows] = row_scales.numpy()[:, 0]
        return PackedEmbeddings(self, codes, scales)

    def unscaled(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The float32 values (n, kept) of codes (n, code_bytes) before each vector's scale is applied."""
        if self.scheme is None:
            values = np.ascontiguousarray(codes).view(FLOATS[self.precision])
            return values.astype(np.float32)
        if self.scheme.trellis is not None:
            codes = self.scheme.codes(codes, self.kept)
        return expand_bytes(values_table(self.scheme.top), codes)[:, : self.kept]


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
