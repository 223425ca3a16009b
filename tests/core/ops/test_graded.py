"""Graded codes: which components they keep, the bytes of their parts, and values on one scale."""

import numpy as np
import pytest
import torch

from bitembed_core import StorageFormat
from bitembed_core.ops import library, trellis
from bitembed_core.ops.trellis import graded, native
from bitembed_core.ops.trellis.graded import FACTORS, size_bytes
from bitembed_core.ops.trellis.tables import GRADED, TRELLISES

CODE = GRADED["graded-1bit"].trellis


def falling(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors as after a rotation to principal axes: variances fall like 1 / i."""
    x = np.random.default_rng(seed).standard_normal((n, dim)) / np.sqrt(np.arange(1, dim + 1))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_as_many_bytes_as_one_bit_for_every_component() -> None:
    for dim in (*range(9, 200), 384, 640, 768, 1024, 4096):
        form = StorageFormat("graded-1bit", dim)
        assert form.code_bytes == -(-dim // 8)
        first, second = CODE.parts(form.kept)
        assert first + second == form.kept <= dim
        assert -(-2 * first // 8) + -(-second // 8) + 1 == form.code_bytes
    assert CODE.parts(StorageFormat("graded-1bit", 384).kept) == (124, 128)
    assert [StorageFormat("graded-1bit", dim).code_bytes for dim in (1, 4, 8, 16, 17)] == [2, 2, 2, 2, 3]
    assert [StorageFormat("graded-1bit", dim).kept for dim in (1, 4, 8, 16, 17)] == [1, 4, 4, 4, 12]


def test_a_code_is_two_strings_and_a_byte() -> None:
    form = StorageFormat("graded-1bit", 384)
    codes = form.encode(falling(40, 384)).codes
    two, one = (TRELLISES[name].trellis for name in ("trellis-2bit", "trellis-1bit"))
    first = trellis.levels(torch.from_numpy(codes[:, :31].copy()), 124, two).flip(1)
    second = trellis.levels(torch.from_numpy(codes[:, 31:47].copy()), 128, one).flip(1)
    ratio = torch.from_numpy(2.0 ** ((codes[:, 47:].astype(np.float64) - 128) / 32))  # second over first
    assert (ratio < 1).all()  # components fall
    values = torch.cat([2 * first.double() - 255, (2 * second.double() - 255) * ratio], dim=1)
    found = 2 * trellis.levels(torch.from_numpy(codes), 252, CODE).double() - 255
    torch.testing.assert_close(found, values, rtol=0, atol=1.5)  # to the next odd number; factors are 256ths


@pytest.mark.skipif(not library.available(), reason="the native library was not built")
@pytest.mark.parametrize("dim", [1, 5, 17, 70, 100, 384, 640, 1001])
def test_native_levels_are_the_references(dim, isa) -> None:
    kept = StorageFormat("graded-1bit", dim).kept
    generator = torch.Generator().manual_seed(dim)
    for n in (0, 1, 300):
        codes = torch.randint(0, 256, (n, CODE.code_bytes(kept)), dtype=torch.uint8, generator=generator)
        assert torch.equal(native.graded_levels(codes, kept, CODE), graded.levels(codes, kept, CODE))


def test_sizes_are_those_of_the_parts() -> None:
    """Each part by itself has the right inner product with its values, up to a step of a 32nd of a doubling."""
    x = torch.from_numpy(falling(200, 384))
    packed = StorageFormat("graded-1bit", 384).encode(x)
    decoded = torch.from_numpy(packed.decode())
    ratios = []
    for part in (slice(0, 124), slice(124, 252)):
        own = x[:, part]
        ratios.append((own * decoded[:, part]).sum(dim=1) / own.square().sum(dim=1))
    np.testing.assert_allclose(ratios[1] / ratios[0], 1, atol=0.03)


def test_bytes_of_sizes() -> None:
    scales = torch.tensor([[1, 1], [1, 2], [3, 1.5], [1, 1e9], [1, 1e-9], [1, 0], [0, 1], [0, 0]])
    assert size_bytes(scales).tolist() == [128, 160, 96, 254, 1, 0, 255, 0]
    assert FACTORS[[128, 160, 96, 0, 255]].tolist() == [
        [256, 256],
        [128, 256],
        [256, 128],
        [256, 0],
        [0, 256],
    ]


def test_levels_are_rounded_to_the_nearest_value() -> None:
    codes = torch.randint(0, 256, (256, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes[:, -1] = torch.arange(256)
    even = codes.clone()
    even[:, -1] = 128
    values, scaled = (2 * trellis.levels(c, 252, CODE).double() - 255 for c in (even, codes))
    exact = values * (FACTORS.double() / 256).repeat_interleave(torch.tensor([124, 128]), dim=1)
    assert (scaled - exact).abs().max() <= 1
    assert (scaled[0, 124:].abs() == 1).all()  # next to zero: a part that is none


@pytest.mark.parametrize("rival", ["trellis-1bit", "binary-fitted", "trellis-2bit-192d"])
def test_it_keeps_more_of_falling_components(rival) -> None:
    """Of the whole vector's direction, at the same bytes."""
    x = falling(300, 384)
    kept = []
    for name in ("graded-1bit", rival):
        form = StorageFormat(name, 384)
        assert form.bytes_per_vector == 52
        y = form.encode(x).decode()
        kept.append(np.mean((x * y).sum(axis=1) / np.linalg.norm(y, axis=1)))
    assert kept[0] > kept[1]
