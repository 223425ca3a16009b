"""The pass between two products against its parts: sum, norms and quantization, one after the other."""

import pytest
import torch
from torch.nn import functional as F

from bitembed_core.ops.encoder.architecture import NO_NORM, NormPart
from bitembed_core.ops.norm_quantize.joined import join
from bitembed_core.ops.norm_quantize.triton import norm_quantize

TOKENS, FEATURES = 5, 44


def norm_part(kind: str, device: torch.device) -> NormPart:
    if kind == "none":
        return NO_NORM
    weight = torch.linspace(-1, 2, FEATURES, device=device)
    return NormPart(kind, weight, weight.flip(0) if kind == "layer" else None, 1e-5)


def after_norm(x: torch.Tensor, norm: NormPart) -> torch.Tensor:
    """In float64, rounded to x's dtype."""
    y = x.double()
    if norm.kind == "layer":
        y = F.layer_norm(y, y.shape[-1:], norm.weight.double(), norm.bias.double(), norm.eps)
    if norm.kind == "rms":
        y = y / (y.square().mean(dim=-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double()
    return y.to(x.dtype)


@pytest.mark.parametrize("projections", [0, 1, 2, 3])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(
    ("own", "after", "before"),
    [
        ("none", "none", "none"),
        ("none", "none", "rms"),
        ("rms", "none", "rms"),
        ("none", "layer", "none"),
        ("layer", "rms", "layer"),
    ],
)
def test_join(own, after, before, residual, projections, device) -> None:
    generator = torch.Generator().manual_seed(0)
    x, r = (torch.randn(TOKENS, FEATURES, generator=generator).to(device) for _ in range(2))
    norms = [norm_part(kind, device) for kind in (own, after, before)]
    gains = torch.linspace(0.5, 1.5, projections * FEATURES, device=device).view(projections, FEATURES)
    states, codes, scales = join(
        x, r if residual else None, *norms, gains if projections else None, 1e-6, bool(projections)
    )
    total = after_norm(x, norms[0])
    expected = after_norm(r + total if residual else total, norms[1])
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-6)
    assert codes.shape == (projections, TOKENS, FEATURES)
    if projections:
        expected_codes, expected_scales, _ = norm_quantize(after_norm(states, norms[2]), gains, 1e-6)
        torch.testing.assert_close(scales, expected_scales, rtol=1e-5, atol=0)
        # A value on the other side of a rounding step is one code away.
        away = (codes.int() - expected_codes.int()).abs()
        assert away.max() <= 1
        assert away.float().mean() < 0.01


def test_without_anything_between_it_is_the_quantization(device) -> None:
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(1)).to(device)
    states, codes, scales = join(x, None, NO_NORM, NO_NORM, NO_NORM, None, 0.0)
    expected_codes, expected_scales, _ = norm_quantize(x, None, 0.0)
    assert states is x
    assert torch.equal(codes, expected_codes)
    assert torch.equal(scales, expected_scales)


def test_sums_are_rounded_as_they_would_be_in_memory(device) -> None:
    x, r = torch.full((1, 4), 2.0**-11), torch.ones(1, 4)
    half = [t.to(device, torch.float16) for t in (x, r)]
    states, _, scales = join(half[0], half[1], NO_NORM, NO_NORM, NO_NORM, None, 0.0)
    assert torch.equal(states.cpu(), torch.ones(1, 4, dtype=torch.float16))  # a tie, to even
    assert scales.item() == pytest.approx(1 / 127, rel=1e-6)


def test_no_tokens(device) -> None:
    states, codes, scales = join(torch.zeros(0, 8, device=device), None, NO_NORM, NO_NORM, NO_NORM, None, 0.0)
    assert states.shape == (0, 8)
    assert codes.shape == (1, 0, 8)
    assert scales.shape == (1, 0)
