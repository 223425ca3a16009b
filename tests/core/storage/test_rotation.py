"""Rotations: cosines stay, the fitted one helps signs, files are checked."""

import pytest
import torch

from bitembed_core import StorageFormat
from bitembed_core.storage.rotation import Rotation


def clustered(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Corners of a cube that lies askew, with noise."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randn(n, dim, generator=generator).sign()
    x = Rotation.random(dim, seed=99)(corners) + 0.3 * torch.randn(n, dim, generator=generator)
    return torch.nn.functional.normalize(x, dim=1)


def sign_cosine(x: torch.Tensor) -> float:
    y = torch.from_numpy(StorageFormat("binary", x.shape[1]).encode(x).decode())
    return torch.nn.functional.cosine_similarity(x, y).mean().item()


@pytest.mark.parametrize("rotation", [Rotation.random(24), Rotation.fit(clustered(200, 24))])
def test_cosines_stay(rotation) -> None:
    x = clustered(9, 24, seed=1)
    torch.testing.assert_close(rotation(x) @ rotation(x).t(), x @ x.t(), rtol=1e-4, atol=1e-5)
    assert rotation(x.half()).dtype == torch.float16


def test_the_fitted_rotation_helps_vectors_it_has_not_seen() -> None:
    x = clustered(300, 24, seed=2)
    none, random = sign_cosine(x), sign_cosine(Rotation.random(24)(x))
    fitted = sign_cosine(Rotation.fit(clustered(2000, 24))(x))
    assert fitted > max(none, random) + 0.05


def test_principal_axes_hold_most_in_the_first_components() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(1, 0.1, 24)
    x = Rotation.random(24, seed=7)(torch.randn(500, 24, generator=generator) * spread)
    unit = torch.nn.functional.normalize(x, dim=1)
    turned = Rotation.principal(x)(unit)
    shares = turned.square().mean(dim=0)
    assert (shares.diff() <= 1e-6).all()
    best = torch.linalg.svdvals(unit)[:8].square().sum() / len(x)  # Eckart and Young
    for rotation in (Rotation.principal(x), Rotation.principal(x, kept=8)):
        assert rotation(unit)[:, :8].square().sum(dim=1).mean() == pytest.approx(float(best), rel=1e-4)
    mixed = Rotation.principal(x, kept=8)(unit)[:, :8].square().mean(dim=0)
    assert mixed.max() / mixed.min() < shares[0] / shares[7]
    with pytest.raises(ValueError, match="cannot keep 25"):
        Rotation.principal(x, kept=25)


def test_random_rotations_differ_by_seed_only() -> None:
    assert torch.equal(Rotation.random(8, 3).matrix, Rotation.random(8, 3).matrix)
    assert not torch.equal(Rotation.random(8, 3).matrix, Rotation.random(8, 4).matrix)


def test_files(tmp_path) -> None:
    rotation = Rotation.random(16)
    rotation.save(tmp_path / "r.safetensors")
    assert torch.equal(Rotation.load(tmp_path / "r.safetensors").matrix, rotation.matrix)
    content = (tmp_path / "r.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:200])
    with pytest.raises(ValueError, match="damaged or no rotation"):
        Rotation.load(tmp_path / "cut.safetensors")


def test_what_is_no_rotation() -> None:
    with pytest.raises(ValueError, match="not orthogonal"):
        Rotation(torch.full((3, 3), 0.5))
    with pytest.raises(ValueError, match="square float32"):
        Rotation(torch.eye(3, 4))
    with pytest.raises(ValueError, match="at least as many"):
        Rotation.fit(torch.randn(3, 8))
    with pytest.raises(ValueError, match="not orthogonal"):
        Rotation(torch.full((2, 2), torch.nan))
