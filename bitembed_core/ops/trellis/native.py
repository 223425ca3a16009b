"""Trellis codes by the native library; results are those of the reference, bit for bit."""

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.trellis.graded import FACTORS, Graded
from bitembed_core.ops.trellis.reference import Trellis


def encode(targets_ND: Tensor, trellis: Trellis) -> Tensor:
    """See `reference.encode`.

    Raises:
        MemoryError: not enough memory for the paths.
    """
    dim = targets_ND.shape[1]
    return _run("encode", targets_ND, dim, trellis, trellis.code_bytes(dim))


def levels(codes_NB: Tensor, dim: int, trellis: Trellis) -> Tensor:
    """See `reference.levels`."""
    return _run("levels", codes_NB, dim, trellis, dim)


def graded_levels(codes_NB: Tensor, kept: int, graded: Graded) -> Tensor:
    """See `graded.levels`."""
    codes_NB = codes_NB.contiguous()
    out_NK = torch.empty(len(codes_NB), kept, dtype=torch.uint8)
    library.native().bitembed_graded_levels(
        library.pointer(codes_NB),
        len(codes_NB),
        *graded.parts(kept),
        library.pointer(graded.first.levels_WV),
        library.pointer(graded.second.levels_WV),
        library.pointer(FACTORS),
        library.pointer(out_NK),
        library.threads(),
    )
    return out_NK


def _run(operation: str, x_NI: Tensor, dim: int, trellis: Trellis, width: int) -> Tensor:
    """What the operation writes for x's rows, uint8 (n, width)."""
    x_NI = x_NI.contiguous()  # bound to a name, so that it lives until the call returns
    out_NO = torch.empty(len(x_NI), width, dtype=torch.uint8)
    getattr(library.native(), f"bitembed_trellis_{operation}")(
        library.pointer(x_NI),
        len(x_NI),
        dim,
        trellis.step_bits,
        trellis.step_values,
        library.pointer(trellis.levels_WV),
        library.pointer(out_NO),
        library.threads(),
    )
    return out_NO
