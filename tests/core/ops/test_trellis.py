"""Trellis codes: the best of all bit strings, the same bits on every instruction set, the distortion that they promise."""

from itertools import product

import numpy as np
import pytest
import torch

from bitembed_core.ops import library, trellis
from bitembed_core.ops.trellis import native, reference
from bitembed_core.ops.trellis.reference import LARGEST_TARGET, Trellis
from bitembed_core.ops.trellis.tables import TRELLISES

needs_library = pytest.mark.skipif(not library.available(), reason="the native library was not built")
ODD = {
    f"{k} bits, {v} values": Trellis(
        k, v, torch.randint(0, 256, (256, v), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
    )
    for k, v in ((7, 3), (5, 1), (4, 3))
}
ALL = {name: code.trellis for name, code in TRELLISES.items()} | ODD


def looked_up(bits: list[int], dim: int, code: Trellis) -> list[int]:
    """The levels that a string of bits stands for, as the definition has it."""
    found: list[int] = []
    for step in range(1, len(bits) // code.step_bits + 1):
        window = ([0] * 8 + bits[: step * code.step_bits])[-8:]
        found += code.levels_WV[int("".join(map(str, window)), 2)].tolist()
    return found[:dim]


def adversarial(dim: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(dim)
    targets_ND = (
        (120 * torch.randn(40, dim, generator=generator)).round().clamp(-LARGEST_TARGET, LARGEST_TARGET)
    )
    targets_ND[0], targets_ND[1], targets_ND[2] = 0, LARGEST_TARGET, -LARGEST_TARGET
    targets_ND[3] = LARGEST_TARGET * (-1.0) ** torch.arange(dim)
    targets_ND[4, 0] = LARGEST_TARGET
    return targets_ND.short()


@pytest.mark.parametrize("name", ALL)
def test_no_string_of_bits_is_closer(name) -> None:
    code = ALL[name]
    for steps in range(1, 12 // code.step_bits + 1):
        dim = steps * code.step_values - (code.step_values > 1)
        strings = [list(bits) for bits in product((0, 1), repeat=steps * code.step_bits)]
        values = 2 * np.array([looked_up(bits, dim, code) for bits in strings]) - 255
        targets = adversarial(dim)
        # What lies beyond the last value is aimed at 0 by the encoder; the distance of a vector leaves it out.
        whole = np.array([looked_up(bits, steps * code.step_values, code) for bits in strings]) * 2 - 255
        aimed = np.zeros((len(targets), steps * code.step_values))
        aimed[:, :dim] = targets
        least = ((aimed[:, None] - whole) ** 2).sum(axis=2).min(axis=1)
        codes = reference.encode(targets, code)
        bits = np.unpackbits(codes.numpy(), axis=1)
        assert not bits[:, steps * code.step_bits :].any()
        chosen = [int("".join(map(str, row[: steps * code.step_bits])), 2) for row in bits]
        assert (((aimed - whole[chosen]) ** 2).sum(axis=1) == least).all()
        assert np.array_equal(2 * reference.levels(codes, dim, code).int().numpy() - 255, values[chosen])


@needs_library
@pytest.mark.parametrize("name", ALL)
def test_native_codes_are_the_references(name, isa) -> None:
    code = ALL[name]
    for dim in (1, 2, 3, 7, 64, 131, 400):
        targets = adversarial(dim)
        expected = reference.encode(targets, code)
        codes = native.encode(targets, code)
        assert torch.equal(codes, expected)
        assert torch.equal(native.levels(codes, dim, code), reference.levels(expected, dim, code))
        some = torch.randint(0, 256, codes.shape, dtype=torch.uint8)  # also codes that no encoder wrote
        assert torch.equal(native.levels(some, dim, code), reference.levels(some, dim, code))
    assert native.encode(torch.empty(0, 9, dtype=torch.int16), code).shape == (0, code.code_bytes(9))
    assert reference.encode(torch.empty(0, 9, dtype=torch.int16), code).shape == (0, code.code_bytes(9))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_codes_of_tensors_on_a_card_are_the_same(name) -> None:
    code, targets = ALL[name], adversarial(131)
    codes = trellis.encode(targets.cuda(), code)
    assert codes.is_cuda
    assert torch.equal(codes.cpu(), reference.encode(targets, code))
    assert torch.equal(trellis.levels(codes, 131, code).cpu(), reference.levels(codes.cpu(), 131, code))


@needs_library
def test_strided_codes_are_copied_for_as_long_as_they_are_read() -> None:
    """A copy of so many bytes goes back to the system as soon as nothing holds it."""
    code = TRELLISES["trellis-2bit"].trellis
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 256, (10_000, 4000), dtype=torch.uint8, generator=generator)
    strided = codes.T.contiguous().T
    assert not strided.is_contiguous()
    assert torch.equal(native.levels(strided, 16_000, code), native.levels(codes, 16_000, code))


@pytest.mark.parametrize(
    ("name", "distortion", "of_single_values"),
    [("trellis-2bit", 0.087, 0.1175), ("trellis-1.5bit", 0.160, 0.1902), ("trellis-1bit", 0.298, 0.3634)],
)
def test_distortion_of_normal_values(name, distortion, of_single_values) -> None:
    """Lloyd and Max's codes of single values lose 0.1175 with 4 levels, 0.1902 with 3 (1.58 bits), 0.3634 with 2; no code
    loses less than 4^-bits."""
    code, reach = TRELLISES[name]
    x = torch.randn(200, 384, generator=torch.Generator().manual_seed(77))
    codes = trellis.encode((x * 255 / reach).round().short(), code)
    values = reach * (2 * trellis.levels(codes, 384, code).float() / 255 - 1)
    lost = float((x - values).square().mean() / x.square().mean())
    assert 4**-code.bits < lost < distortion < of_single_values


def test_bad_arguments() -> None:
    code = TRELLISES["trellis-1.5bit"].trellis
    with pytest.raises(ValueError, match=r"codes of 9 values are \(n, 2\), got \(3, 1\)"):
        trellis.levels(torch.zeros(3, 1, dtype=torch.uint8), 9, code)
    with pytest.raises(ValueError, match="1 to 7 new bits"):
        Trellis(8, 1, code.levels_WV)
    with pytest.raises(ValueError, match=r"levels \(256, 3\)"):
        Trellis(3, 3, code.levels_WV)
