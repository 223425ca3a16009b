"""Conversion as a recipe: the comparison is what it says, and leaves the model as it was."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from workbench.catalog.models import load_embedder
from workbench.recipes.convert import ConvertConfig, compare, convert, embed, unit_gains, unrounded


def config_of(backbone, examples, tmp_path, **changes):
    settings = {"calibration_size": 8, "held_out_size": 4, "calibration_texts": examples}
    return ConvertConfig(backbone=backbone, out=str(tmp_path / "run"), **settings | changes)


def test_saved_model_is_the_one_that_was_compared(backbone, examples, tmp_path):
    converted = convert(config_of(backbone, examples, tmp_path))
    again = load_embedder(str(tmp_path / "run"))
    texts = ["a text", "a somewhat longer text"]
    np.testing.assert_allclose(again.encode(texts), converted.embedder.encode(texts), atol=1e-6)
    assert again.is_ternary
    assert len(converted.agreement["ternary"].cosines) == 4
    assert converted.agreement["calibrated norms"].cosines.mean() > 0.95


def test_too_few_texts_leave_nothing_behind(backbone, examples, tmp_path):
    with pytest.raises(ValueError, match="different texts"):
        convert(config_of(backbone, examples, tmp_path, calibration_size=1000))
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_kept_unless_told_otherwise(backbone, examples, tmp_path):
    config = config_of(backbone, examples, tmp_path)
    convert(config)
    with pytest.raises(FileExistsError):
        convert(config)
    convert(config_of(backbone, examples, tmp_path, overwrite=True))


@pytest.mark.parametrize(("field", "value"), [("calibration_size", 0), ("held_out_size", 1)])
def test_senseless_sizes_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        ConvertConfig(**{field: value})


def test_compare_against_loops():
    rng = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 9, 5)))
    agreement = compare(a, b)
    np.testing.assert_allclose(agreement.cosines, [float(np.dot(x, y)) for x, y in zip(a, b, strict=True)])
    pairs = [(i, j) for i in range(9) for j in range(i)]
    before, after = agreement.similarities
    np.testing.assert_allclose(sorted(before), sorted(a[i] @ a[j] for i, j in pairs))
    np.testing.assert_allclose(sorted(after), sorted(b[i] @ b[j] for i, j in pairs))
    expected = spearmanr([a[i] @ a[j] for i, j in pairs], [b[i] @ b[j] for i, j in pairs]).statistic
    assert agreement.rank_correlation == pytest.approx(expected)


def test_unrounded_is_the_latent_model_and_goes_away(tiny_embedder):
    tiny_embedder.convert("all", ["a text", "another"])
    model, batch = tiny_embedder.model, tiny_embedder.tokenize(["some text"])
    layer = next(module for module in model.modules() if type(module).__name__ == "BitLinear")
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        before = model(**batch).last_hidden_state
        with unrounded(model):
            y = layer(x)
        normed = layer.norm.weight * x / torch.sqrt(x.square().mean(-1, keepdim=True) + layer.norm.eps)
        torch.testing.assert_close(y, normed @ layer.weight.T + layer.bias, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(**batch).last_hidden_state, before)


def test_embedding_sees_what_is_unrounded_whichever_kernel_runs(tiny_embedder, sentences):
    """Without norms and without rounding, a converted model is the original, up to float16."""
    original = embed(tiny_embedder, sentences)
    np.testing.assert_allclose(original, tiny_embedder.encode(sentences), atol=1e-5)
    tiny_embedder.convert("none")
    with unrounded(tiny_embedder.model):
        np.testing.assert_allclose(embed(tiny_embedder, sentences), original, atol=2e-3)
    assert np.abs(embed(tiny_embedder, sentences) - original).max() > 0.02


def test_unit_gains_come_back_even_after_an_error(tiny_embedder):
    tiny_embedder.convert("all", ["a text", "another"])
    gains = {n: p.clone() for n, p in tiny_embedder.model.named_parameters() if n.endswith(".norm.weight")}
    with unit_gains(tiny_embedder.model):
        assert gains
        assert all((tiny_embedder.model.get_parameter(name) == 1).all() for name in gains)
    with pytest.raises(RuntimeError), unit_gains(tiny_embedder.model):
        raise RuntimeError
    for name, gain in gains.items():
        assert torch.equal(tiny_embedder.model.get_parameter(name), gain)
