"""Trellis codes (Marcellin and Fischer 1990, Trellis coded quantization; the bit-shift form as in QTIP, arXiv 2406.11235):
a vector's code is found as a whole, and a value needs fewer bits for the same error."""

from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.trellis import graded, native, reference
from bitembed_core.ops.trellis.graded import Graded, size_bytes
from bitembed_core.ops.trellis.reference import LARGEST_TARGET, TOP, Trellis

__all__ = ["LARGEST_TARGET", "TOP", "Graded", "Trellis", "encode", "levels", "size_bytes"]


def encode(targets_ND: Tensor, trellis: Trellis) -> Tensor:
    """The codes uint8 (n, code_bytes) whose values come closest to int16 targets (n, dim); see `reference.encode`.

    Targets on another device go to the CPU and back: step by step a card takes far longer.
    """
    if library.available():
        return native.encode(targets_ND.cpu(), trellis).to(targets_ND.device)
    return reference.encode(targets_ND, trellis)


def levels(codes_NB: Tensor, dim: int, trellis: Trellis | Graded) -> Tensor:
    """The levels uint8 (n, dim) of codes (n, code_bytes): z stands for `2 z - 255`.

    A graded code has those of its two parts one after the other, and then the byte of their sizes; `dim` is what it keeps.

    Raises:
        ValueError: codes of another width.
    """
    if codes_NB.ndim != 2 or codes_NB.shape[1] != trellis.code_bytes(dim):
        raise ValueError(
            f"codes of {dim} values are (n, {trellis.code_bytes(dim)}), got {tuple(codes_NB.shape)}"
        )
    natively = codes_NB.device.type == "cpu" and library.available()
    if isinstance(trellis, Graded):
        return (native.graded_levels if natively else graded.levels)(codes_NB, dim, trellis)
    return (native if natively else reference).levels(codes_NB, dim, trellis)
