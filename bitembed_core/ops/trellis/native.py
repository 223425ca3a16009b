"""Trellis codes by the native library; results are those of the reference, bit for bit."""

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.trellis.reference import Trellis


def encode(targets_ND: Tensor, trellis: Trellis) -> Tensor:
    """See `reference.encode`.

    Raises:
        MemoryError: not enough memory for the paths.
    """
    n, dim = targets_ND.shape
    codes = torch.empty(n, trellis.code_bytes(dim), dtype=torch.uint8)
    library.native().bitembed_trellis_encode(
        library.pointer(targets_ND.contiguous()),
        n,
        dim,
        trellis.step_bits,
        trellis.step_values,
        library.pointer(trellis.levels_WV),
        library.pointer(codes),
        library.threads(),
    )
    return codes


def levels(codes_NB: Tensor, dim: int, trellis: Trellis) -> Tensor:
    """See `reference.levels`."""
    out_ND = torch.empty(len(codes_NB), dim, dtype=torch.uint8)
    library.native().bitembed_trellis_levels(
        library.pointer(codes_NB.contiguous()),
        len(codes_NB),
        dim,
        trellis.step_bits,
        trellis.step_values,
        library.pointer(trellis.levels_WV),
        library.pointer(out_ND),
        library.threads(),
    )
    return out_ND
