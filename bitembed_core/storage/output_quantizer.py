"""Low-bit embeddings (BITEMBED, arXiv 2606.25674, Eq 10 and 11): one scale per vector, evenly spaced levels.

With a = max_j |e_j| and m = 2^b - 1, the code is `z = clip(round((e/a + 1)/2 * m), 0, m)` and the value it
stands for `(2z/m - 1) a`. One bit is the sign instead, with sign(0) = +1; its values -a and a are those of
the same formula.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bitembed_core.ops import gpu
from bitembed_core.quantizers import StraightThrough
from bitembed_core.storage.bit_packing import CODE_BITS
from bitembed_core.storage.precisions import SCHEMES, is_precision, split_name
from bitembed_core.storage.schemes import fake_quantized

OUTPUT_BITS = (*CODE_BITS, 16)
NAMED_BITS = {
    "float32": 16,
    "float16": 16,
    "int8": 8,
    "int4": 4,
    "int2": 2,
    "binary": 1,
}  # 16: nothing is rounded


def output_codes(e: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Eq 10 (`bits` = 1) and the codes of Eq 11 (2, 4, 8), computed in float32.

    Args:
        e: floating point (..., d); the last axis is one embedding. A zero vector gets scale 0.

    Returns:
        codes uint8 (..., d) in 0 .. 2^bits - 1; scale float32 (..., 1).
    """
    if bits not in CODE_BITS:
        raise ValueError(f"codes have one of {CODE_BITS} bits, not {bits}")
    e = e.float()
    scale = e.abs().amax(dim=-1, keepdim=True)
    if bits == 1:
        return (e >= 0).to(torch.uint8), scale
    m = 2**bits - 1
    relative = e / torch.where(scale > 0, scale, 1)
    return ((relative + 1) / 2 * m).round().clamp(0, m).to(torch.uint8), scale


def decode_codes(codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The float32 values (..., d) that codes (..., d) and scale (..., 1) stand for: `(2z/m - 1) a`."""
    # By a tensor, not a number: a GPU would multiply by the number's reciprocal and round otherwise.
    m = torch.full_like(scale, 2**bits - 1)
    return (2 * codes.float() / m - 1) * scale


def fake_quantize_output(e: Tensor, bits: int | str) -> Tensor:
    """`e` (..., d) as it is stored with `bits` bits per value, in its own dtype; gradient straight through.

    Args:
        bits: 1, 2, 4 or 8; 16 returns `e` itself; or the name of a storage format. A fitted format's values keep e's length,
            a shortened or graded format gives the components that it keeps (..., kept).
    """
    check_output_bits([bits])
    if isinstance(bits, str):
        bits, kept = split_name(bits)
        e, bits = e[..., :kept], NAMED_BITS.get(bits, bits)
    if bits == 16:
        return e
    with torch.no_grad():
        values = (
            fake_quantized(e, SCHEMES[bits])
            if isinstance(bits, str)
            else decode_codes(*output_codes(e, bits), bits)
        )
    return StraightThrough.apply(e[..., : values.shape[-1]], values)


def fake_quantize_outputs(e: Tensor, bits: Sequence[int | str]) -> list[Tensor]:
    """`fake_quantize_output` for several; on CUDA devices the numbers of bits in one pass."""
    check_output_bits(bits)
    if not gpu.automatic(e.device):
        return [fake_quantize_output(e, b) for b in bits]
    from bitembed_core.ops.output_quantize.triton import output_quantize

    numbers = [b for b in bits if isinstance(b, int)]
    together = output_quantize(e.reshape(-1, e.shape[-1]), numbers) if numbers else []
    rounded = dict(zip(numbers, together, strict=True))
    return [rounded[b].view(e.shape) if isinstance(b, int) else fake_quantize_output(e, b) for b in bits]


def check_output_bits(bits: Sequence[int | str]) -> None:
    """ValueError unless each is a number of bits or the name of a storage format."""
    for b in bits:
        if b not in OUTPUT_BITS and not (isinstance(b, str) and is_precision(b)):
            raise ValueError(f"bits must be one of {OUTPUT_BITS}, or the name of a storage format, not {b!r}")
