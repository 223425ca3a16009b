"""What is said of a linear's inputs is what a loop over the tokens finds, padding left out."""

import numpy as np
import pytest
import torch

from bitembed_core.conversion import bit_linears, block_linears
from workbench.activations import InputRecorder, InputSizes

TEXTS = ["a text", "one that is quite a bit longer", "x"]


def inputs_of(model, name, batch):
    """The vectors (tokens, d) that a linear is given, real tokens only."""
    kept = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return kept[0][batch["attention_mask"].bool()]


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gemma3"])
def test_before_conversion_every_real_token_is_measured(make_embedder, architecture):
    embedder = make_embedder(architecture)
    batch = embedder.tokenize(TEXTS)
    assert not batch["attention_mask"].all()
    names = list(block_linears(embedder.model))
    with InputRecorder(embedder.model, names) as recorder, torch.no_grad():
        embedder.embed(batch)
    sizes = recorder.sizes()
    assert list(sizes) == names
    for name in (names[0], names[-1]):
        x_ND = inputs_of(embedder.model, name, batch).numpy()
        np.testing.assert_allclose(sizes[name].rms, [np.sqrt(np.mean(x**2)) for x in x_ND], rtol=1e-5)
        np.testing.assert_allclose(sizes[name].largest, [np.max(np.abs(x)) for x in x_ND], rtol=1e-5)
        ratios = [np.max(np.abs(x)) / np.sqrt(np.mean(x**2)) for x in x_ND]
        np.testing.assert_allclose(sizes[name].outlier_ratio, ratios, rtol=1e-5)


def test_after_conversion_the_norm_is_included_and_makes_all_tokens_one_size(tiny_embedder):
    batch = tiny_embedder.tokenize(TEXTS)
    tiny_embedder.convert("output", TEXTS)
    layers = dict(bit_linears(tiny_embedder.model))
    with InputRecorder(tiny_embedder.model, layers) as recorder, torch.no_grad():
        tiny_embedder.embed(batch)
    sizes = recorder.sizes()
    for name, layer in layers.items():
        x_ND = inputs_of(tiny_embedder.model, name, batch)
        if layer.norm is None:
            np.testing.assert_allclose(sizes[name].rms, x_ND.square().mean(-1).sqrt(), rtol=1e-5)
            continue
        gain = float(layer.norm.weight[0].detach())
        np.testing.assert_allclose(sizes[name].rms, gain, rtol=1e-4)
        ratio = x_ND.abs().amax(-1) / x_ND.square().mean(-1).sqrt()
        np.testing.assert_allclose(sizes[name].outlier_ratio, ratio, rtol=1e-4)  # equal gains leave it alone


def test_nothing_stays_hooked_and_zeros_have_no_ratio(tiny_embedder):
    model = tiny_embedder.model
    with pytest.raises(RuntimeError), InputRecorder(model, block_linears(model)):
        raise RuntimeError
    assert not model._forward_pre_hooks
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert InputSizes(np.zeros(1, np.float32), np.zeros(1, np.float32)).outlier_ratio == 0
