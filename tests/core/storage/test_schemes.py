"""Codes that are fitted to a vector: as good as the best that brute force finds, exact bytes, refusals."""

from itertools import product

import numpy as np
import pytest
import torch

from bitembed_core import StorageFormat
from bitembed_core.storage.formats import SCHEMES
from bitembed_core.storage.output_quantizer import fake_quantize_output
from bitembed_core.storage.schemes import codes_table, fake_quantized, fitted_codes

FITTED = [name for name, scheme in SCHEMES.items() if scheme.fitted]
DIMENSIONS = [*range(1, 71), 384, 640, 1024]


def unit(n: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


@pytest.mark.parametrize("top", [1, 2])
@pytest.mark.parametrize("dim", [1, 2, 5, 7])
def test_one_bit_and_three_values_are_the_best_there_are(dim, top) -> None:
    x = unit(20, dim)
    codes, correction = fitted_codes(torch.from_numpy(x), top)
    values = (2 * codes.float() / top - 1).numpy()
    choices = np.array(list(product((-1, 0, 1) if top == 2 else (-1, 1), repeat=dim)), dtype=np.float64)
    choices = choices[np.abs(choices).sum(axis=1) > 0]
    best = (x @ (choices / np.linalg.norm(choices, axis=1, keepdims=True)).T).max(axis=1)
    np.testing.assert_allclose(cosine(x, values), best, atol=1e-6)
    np.testing.assert_allclose(correction[:, 0], 1 / (x * values).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("fitted", "paper", "gain"), [("int4-fitted", "int4", 0.001), ("int2-fitted", "int2", 0.05)]
)
def test_never_further_away_than_the_papers_codes(fitted, paper, gain) -> None:
    x = np.concatenate([unit(200, 384), unit(50, 384, 1) ** 3, np.eye(8, 384, dtype=np.float32)])
    distances = [cosine(x, StorageFormat(name, 384).encode(x).decode()) for name in (fitted, paper)]
    assert (distances[0] >= distances[1] - 1e-6).all()
    assert distances[0][:200].mean() > distances[1][:200].mean() + gain


def test_cosines_of_gaussian_vectors() -> None:
    """What theory says: sqrt(2 / pi) for signs, the Lloyd-Max distortions of normal values for more levels."""
    x = unit(300, 1024)
    means = {name: cosine(x, StorageFormat(name, 1024).encode(x).decode()).mean() for name in FITTED}
    assert means["binary-fitted"] == pytest.approx((2 / np.pi) ** 0.5, abs=2e-3)
    assert means["ternary-fitted"] == pytest.approx((1 - 0.1902) ** 0.5, abs=3e-3)
    assert means["int2-fitted"] == pytest.approx((1 - 0.1188) ** 0.5, abs=2e-3)
    for bits, distortion in (("1", 0.294), ("1.5", 0.156), ("2", 0.083)):  # test_trellis.py
        assert means[f"trellis-{bits}bit"] == pytest.approx((1 - distortion) ** 0.5, abs=5e-3)
    assert means["int4-fitted"] == pytest.approx((1 - 0.01154) ** 0.5, abs=1e-3)


@pytest.mark.parametrize("name", FITTED)
def test_the_correction_makes_the_stored_vector_itself_right(name) -> None:
    x = unit(30, 96)
    packed = StorageFormat(name, 96).encode(x)
    x[:, packed.format.kept :] = 0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(np.diag(packed.scores(x)), 1, atol=1e-5)
    np.testing.assert_allclose(np.diag(packed.scores(x)), (x * packed.decode()).sum(axis=1), atol=1e-5)


@pytest.mark.parametrize("name", [*FITTED, "int8", "binary"])
def test_every_dimension_round_trips(name) -> None:
    for dim in DIMENSIONS:
        x = unit(6, dim)
        x[1], x[2], x[3] = 0, 0.25, -1e30
        x[4], x[5] = np.float32(1e-42), 1e-3
        x[5, 0] = 1e5
        form = StorageFormat(name, dim)
        packed = form.encode(x)
        assert packed.nbytes == 6 * form.bytes_per_vector == 6 * (form.code_bytes + 4)
        scheme = SCHEMES[name]
        codes = scheme.codes(packed.codes, form.kept)
        assert codes.max() <= scheme.top
        assert scheme.trellis or np.array_equal(scheme.pack(codes), packed.codes)
        decoded = packed.decode()
        assert np.isfinite(decoded).all()
        assert (decoded[1] == 0).all()
        assert not decoded[:, form.kept :].any()
        wide = [values[[0, 2, 3], : form.kept].astype(np.float64) for values in (x, decoded)]
        assert (cosine(*wide) > 0.5).all(), dim
        assert scheme.trellis or decoded[5, 0] == np.abs(decoded[5]).max()


def test_trits_in_a_byte() -> None:
    form = StorageFormat("ternary-fitted", 7)
    assert form.code_bytes == 2
    assert form.bits == 1.6
    packed = form.encode(np.array([[1, -1, 0.01, 1, 1, -1, 0.01]], dtype=np.float32))
    first = 2 * 81 + 0 * 27 + 1 * 9 + 2 * 3 + 2
    assert packed.codes.tolist() == [[first, 0 * 81 + 1 * 27]]
    assert codes_table(2)[first].tolist() == [2, 0, 1, 2, 2]


@pytest.mark.parametrize("name", FITTED)
def test_what_cannot_be_stored(name) -> None:
    for bad in (np.nan, np.inf):
        x = unit(2, 8)
        x[1, 3] = bad
        with pytest.raises(ValueError, match="embedding 1 has values that are NaN"):
            StorageFormat(name, 8).encode(x)
    with pytest.raises(ValueError, match=r"must be \(n, 8\)"):
        StorageFormat(name, 8).encode(unit(2, 9))


@pytest.mark.parametrize("name", FITTED)
def test_training_sees_what_is_stored(name) -> None:
    """With a gradient straight through to the components that are kept."""
    x = torch.from_numpy(unit(6, 40)).view(3, 2, 40).requires_grad_()
    kept = StorageFormat(name, 40).kept
    rounded = fake_quantize_output(x, name)
    assert rounded.shape == (3, 2, kept)
    torch.testing.assert_close(rounded, fake_quantized(x.detach(), SCHEMES[name]))
    weights = torch.linspace(-1, 2, kept)
    (rounded * weights).sum().backward()
    assert torch.equal(x.grad[..., :kept], weights.expand(3, 2, kept))
    assert not x.grad[..., kept:].any()
    assert fake_quantize_output(torch.zeros(0, 2, 40), name).shape == (0, 2, kept)


@pytest.mark.parametrize("name", FITTED)
def test_fake_quantization_keeps_length_and_values(name) -> None:
    x = torch.from_numpy(unit(5, 40)) * 3
    values = fake_quantized(x, SCHEMES[name])
    decoded = StorageFormat(name, 40).encode(x.numpy()).decode()
    kept = StorageFormat(name, 40).kept
    lengths = x[:, :kept].norm(dim=1, keepdim=True).numpy()
    np.testing.assert_allclose(values.numpy(), lengths * decoded[:, :kept], rtol=1e-5)
