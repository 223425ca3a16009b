"""Captured states: right layer, right shapes, unchanged output (padding included), differentiable."""

import pytest
import torch

from bitembed_core.attention import capture_attention_states

SHAPES = {"bert": (4, 4, 8), "qwen3": (4, 2, 16), "gemma3": (4, 2, 16)}  # heads, KV heads, head dimension


@pytest.mark.parametrize("architecture", SHAPES)
def test_capturing_does_not_change_the_output(make_embedder, sentences, architecture) -> None:
    embedder = make_embedder(architecture)
    batch = embedder.tokenize(sentences)
    with torch.no_grad():
        plain = embedder.embed(batch)
        with capture_attention_states(embedder.model, 1) as capture:
            captured = embedder.embed(batch)
    assert torch.equal(plain, captured)
    heads, kv_heads, width = SHAPES[architecture]
    B, T = batch["input_ids"].shape
    assert capture.states.queries.shape == (B, heads, T, width)
    assert capture.states.keys.shape == capture.states.values.shape == (B, kv_heads, T, width)
    assert embedder.model.config._attn_implementation != "bitembed_capturing_sdpa"


def test_values_are_those_of_the_projection_and_gradients_flow(tiny_embedder, sentences) -> None:
    model = tiny_embedder.model
    batch = tiny_embedder.tokenize(sentences)
    inputs = []
    projection = model.encoder.layer[1].attention.self.value
    hook = projection.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with capture_attention_states(model, 1) as capture:
        tiny_embedder.embed(batch)
    hook.remove()
    B, T = batch["input_ids"].shape
    expected = (inputs[0] @ projection.weight.t() + projection.bias).view(B, T, 4, 8).transpose(1, 2)
    torch.testing.assert_close(capture.states.values, expected)
    capture.states.values.sum().backward()
    assert model.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    assert model.encoder.layer[1].output.dense.weight.grad is None


@pytest.mark.parametrize("architecture", SHAPES)
def test_several_layers_in_one_forward(make_embedder, sentences, architecture) -> None:
    embedder = make_embedder(architecture)
    batch = embedder.tokenize(sentences)
    with torch.no_grad():
        with capture_attention_states(embedder.model, 1, 0) as both:
            embedder.embed(batch)
        for layer, states in zip((1, 0), both.by_layer, strict=True):
            with capture_attention_states(embedder.model, layer) as single:
                embedder.embed(batch)
            assert all(map(torch.equal, states, single.states))


def test_layer_out_of_range_and_no_forward(tiny_embedder) -> None:
    with pytest.raises(ValueError, match="layers 0 to 1"), capture_attention_states(tiny_embedder.model, 2):
        pass
    with capture_attention_states(tiny_embedder.model, 0) as capture:
        pass
    with pytest.raises(RuntimeError, match="no forward ran"):
        _ = capture.states
