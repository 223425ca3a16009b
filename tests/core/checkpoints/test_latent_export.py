"""bfloat16 latent weights that stand for exactly the ternary weights they came from."""

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.latent_export import bfloat16_latent, pattern_latent
from bitembed_core.conversion import bit_linears, learn_scales
from bitembed_core.quantizers import quantize_weight

SHAPES = [(64, 48), (96, 128), (256, 640)]


def published_codes(weight: torch.Tensor) -> np.ndarray:
    """As the published converter rounds: no epsilon, round half to even."""
    values = weight.float().numpy()
    return np.round(values / max(np.abs(values).mean(), 1e-5)).clip(-1, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [30.0, 0.02])
def test_a_latent_weight_in_bfloat16_keeps_pattern_and_scale(shape, size) -> None:
    torch.manual_seed(1)
    weight = torch.randn(shape) * size
    codes, scale = quantize_weight(weight)
    assert not torch.equal(quantize_weight(weight.bfloat16())[1], scale)  # merely casting does not do
    narrow = bfloat16_latent(codes, scale, weight)
    assert narrow.dtype == torch.bfloat16
    again, mean = quantize_weight(narrow)
    assert torch.equal(again, codes)
    assert mean == scale
    assert (published_codes(narrow) == codes.numpy()).all()
    moved = (narrow.float() - weight).abs()
    assert moved.quantile(0.99) < 0.01 * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_a_learned_scale_becomes_a_pattern_divided_by_its_share(shape) -> None:
    torch.manual_seed(2)
    codes, scale = quantize_weight(torch.randn(shape))
    scale = scale * 1.7  # not the mean of any latent weight at hand
    share = (codes != 0).sum() / codes.numel()
    torch.testing.assert_close(pattern_latent(codes, scale), codes * scale / share)
    torch.testing.assert_close(pattern_latent(codes, scale).abs().mean(), scale)
    narrow = bfloat16_latent(codes, scale)
    if narrow is not None:  # float32 sums do not reach every scale
        again, mean = quantize_weight(narrow)
        assert torch.equal(again, codes)
        assert mean == scale


def test_what_no_weight_stands_for() -> None:
    zeros = torch.zeros(4, 4, dtype=torch.int8)
    assert bfloat16_latent(zeros, torch.tensor(0.5)) is None
    assert pattern_latent(zeros, torch.tensor(0.5)).eq(0).all()


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        *(("bert", layout) for layout in ("release", "latent", "packed")),
        ("qwen3", "release"),
        ("qwen3", "gguf"),
    ],
)
def test_learned_scales_are_kept_by_every_layout(
    make_embedder, make_published, sentences, tmp_path, architecture, layout
) -> None:
    embedder = make_published("qwen3") if architecture == "qwen3" else make_embedder("bert")
    if not embedder.is_ternary:
        embedder.convert("all", sentences)
    learn_scales(embedder.model)
    torch.manual_seed(3)
    layers = dict(bit_linears(embedder.model))
    with torch.no_grad():
        for layer in layers.values():  # some far from the mean of the latent weights
            layer.log_scale.add_(torch.randn(1) * 0.4)
    ternary = {name: layer.ternary() for name, layer in layers.items()}
    embedder.save_pretrained(tmp_path / "m", layout)
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    for name, layer in bit_linears(again.model):
        codes, scale = layer.ternary()
        assert torch.equal(codes, ternary[name][0]), name
        assert torch.equal(scale, ternary[name][1]), name
        if layout == "latent":
            assert torch.equal(layer.log_scale, layers[name].log_scale)
            assert torch.equal(layer.weight, layers[name].weight)
        else:
            assert layer.log_scale is None
    if layout != "gguf":  # its tables and norms are rounded further
        assert (again.encode(sentences) == embedder.encode(sentences)).all()
