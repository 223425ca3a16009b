"""What the watch says of weights and activations, restated from the weights and activations themselves."""

from typing import Any

import pytest
import torch

from bitembed_core.conversion import bit_linears
from bitembed_core.quantizers import quantize_weight
from workbench.recipes.watch import LOOKS, WeightWatch, activation_ranges


@pytest.fixture
def layers(tiny_embedder: Any) -> dict[str, Any]:
    tiny_embedder.convert("all", ["a text", "another"])
    return dict(bit_linears(tiny_embedder.model))


def walk(layers: dict[str, Any], seed: int) -> None:
    """A step that flips some weights of every layer, never those of the first row."""
    torch.manual_seed(seed)
    for layer in layers.values():
        with torch.no_grad():
            moved = layer.weight[1:]
            layer.weight[1:] = torch.where(torch.rand_like(moved) < 0.2, -moved, moved)


def test_flips_and_dead_weights_of_every_layer(layers: dict[str, Any], tiny_embedder: Any) -> None:
    watch = WeightWatch(tiny_embedder.model, report_every=3, steps=100)  # so that every step is looked at
    history = [{name: quantize_weight(layer.weight)[0] for name, layer in layers.items()}]
    for step in (1, 2, 3):
        with watch.step(step) as seen:
            walk(layers, step)
        history.append({name: quantize_weight(layer.weight)[0] for name, layer in layers.items()})
        old, new = history[-2], history[-1]
        total = sum(codes.numel() for codes in new.values())
        flips = sum(int((new[name] != old[name]).sum()) for name in layers)
        assert seen["flip_share"] == pytest.approx(flips / total)
        assert seen["zero_share"] == pytest.approx(sum(int((c == 0).sum()) for c in new.values()) / total)
    assert [watch.due(step) for step in (1, 2, 3, 99, 100)] == [False, False, True, True, True]
    report = watch.report()
    assert list(report) == list(layers)
    for name, measures in report.items():
        codes = torch.stack([then[name] for then in history])
        flips = (codes[1:] != codes[:-1]).float().mean()
        dead = (codes == codes[0]).all(dim=0).float().mean()
        assert measures["flip_share"] == pytest.approx(flips.item())
        assert measures["dead_share"] == pytest.approx(dead.item())
        assert measures["zero_share"] == pytest.approx((codes[-1] == 0).float().mean().item())
        assert 1 / len(codes[0]) < measures["dead_share"] < 1
    watch.begin(3)
    with watch.step(4):
        pass
    assert {measures["dead_share"] for measures in watch.report().values()} == {1.0}
    assert watch.since == 3


def test_most_steps_are_not_looked_at(layers: dict[str, Any], tiny_embedder: Any) -> None:
    watch = WeightWatch(tiny_embedder.model, report_every=50, steps=73)
    seen = []
    for step in range(1, 74):
        with watch.step(step) as shares:
            pass
        seen += [step] if shares else []
    assert seen == [1, *range(5, 71, 5), 73]
    assert LOOKS == 10


@torch.no_grad()
def test_activation_ranges_are_of_what_is_quantized(layers: dict[str, Any], tiny_embedder: Any) -> None:
    texts = ["a text", "a somewhat longer text"]
    batch = tiny_embedder.tokenize(texts)
    ranges = activation_ranges(layers.items(), lambda: tiny_embedder.embed(batch), batch["attention_mask"])
    inputs = {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0].detach()}))
    tiny_embedder.embed(batch)
    lengths = [len(text) + 2 for text in texts]  # a token a byte, <cls> and <sep>
    for name, layer in layers.items():
        tokens = [row for x, length in zip(inputs[name], lengths, strict=True) for row in x[:length]]
        normed = [layer.norm.weight * x / (x.square().mean() + layer.norm.eps).sqrt() for x in tokens]
        crest = sum(float(x.abs().max() / x.square().mean().sqrt()) for x in normed) / len(normed)
        assert ranges[name]["largest"] == pytest.approx(max(float(x.abs().max()) for x in normed), rel=1e-5)
        assert ranges[name]["crest"] == pytest.approx(crest, rel=1e-5)
    before = {name: len(layer._forward_pre_hooks) for name, layer in layers.items()}
    assert set(before.values()) == {1}  # this test's own: those of the measurement are gone
