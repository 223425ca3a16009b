"""Products that are exact: against fractions, and the same bits whatever stands beside a vector."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from bitembed_core.exact_product import ExactProduct, power_above
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 0.37, 1.0, 3.9, 4.0, 1e30])
def test_powers_above(size) -> None:
    power = float(power_above(torch.tensor(size, dtype=torch.float64)))
    assert np.frexp(power)[0] == 0.5
    assert power / 2 <= size < power or size == 0


@pytest.mark.parametrize("m", [1, 2, 33, 640, 1024])
def test_no_sum_is_rounded(m) -> None:
    """Of whole numbers that both factors hold exactly: the sum is the one of fractions."""
    x = torch.randint(-(2**23), 2**23, (3, m), generator=torch.Generator().manual_seed(1)).float()
    W = torch.randint(-(2**15), 2**15, (m, 5), generator=torch.Generator().manual_seed(2)).float()
    for row, result in zip(x.tolist(), ExactProduct(W)(x).tolist(), strict=True):
        for column, value in zip(W.t().tolist(), result, strict=True):
            assert value == sum(Fraction(a) * Fraction(b) for a, b in zip(row, column, strict=True))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e25])
@pytest.mark.parametrize("m", [1, 100, 384, 1025])
def test_it_is_finer_than_a_product_in_float32(m, size) -> None:
    x, W = random(20, m) * size, random(m, m, seed=1)
    expected = x.double() @ W.double()
    error, usual = ((y.double() - expected).abs().max() for y in (ExactProduct(W)(x), x @ W))
    assert error < (usual if m >= 100 else 1e-7 * expected.abs().max())


def test_numbers_that_are_none_stay_in_their_row() -> None:
    x = random(3, 8)
    x[1, 2] = torch.nan
    x[2, 0] = torch.inf
    y = ExactProduct(random(8, 8))(x)
    assert y[0].isfinite().all()
    assert not y[1:].isfinite().any()
    assert ExactProduct(random(8, 8))(torch.zeros(2, 8)).eq(0).all()


def parts(dim: int) -> list[OutputMap | Centre | Rotation]:
    x = random(2 * dim, dim) + 0.3
    return [OutputMap(random(dim, dim)), OutputMap.flattening(x), Centre.of(x), Rotation.random(dim)]


@pytest.mark.parametrize("dim", [32, 384, 640])
def test_a_vector_is_the_same_alone_beside_others_and_on_any_number_of_threads(dim) -> None:
    x = torch.nn.functional.normalize(random(130, dim, seed=3), dim=-1)
    before = torch.get_num_threads()
    for part in parts(dim):
        together = part(x)
        assert all(torch.equal(part(x[i : i + 1])[0], together[i]) for i in range(0, 130, 7))
        assert torch.equal(part(x[50:57]), together[50:57])
        try:
            torch.set_num_threads(7)
            assert torch.equal(part(x), together)
        finally:
            torch.set_num_threads(before)


def test_with_gradients_it_is_the_usual_product() -> None:
    x = torch.nn.functional.normalize(random(9, 32), dim=-1)
    for part in parts(32):
        leaf = x.clone().requires_grad_()
        y = part(leaf)
        torch.testing.assert_close(y.detach(), part(x), rtol=1e-5, atol=1e-6)
        y.square().sum().backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
