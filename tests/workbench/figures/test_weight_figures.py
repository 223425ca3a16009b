"""Pictures of ternary weights: the shares are those of Eq 1, the summary covers every BitLinear once."""

import re

import pytest
import torch
from torch import nn

from bitembed_core.bitlinear import BitLinear
from workbench.figures import (
    agreement_by_text,
    floating_point_table,
    projection_summary,
    projection_table,
    weight_histogram,
)


def test_histogram_colours_each_weight_by_its_ternary_value():
    torch.manual_seed(0)
    weight = torch.randn(64, 48) * 0.02
    scale = float(weight.abs().mean())
    figure = weight_histogram(weight, scale)
    rounded = torch.round(weight / scale).clamp(-1, 1)
    shown = {a.text for a in figure.layout.annotations}
    assert shown == {
        f"<b>{name}</b>: {(rounded == v).float().mean():.1%}" for name, v in (("-1", -1), ("0", 0), ("+1", 1))
    }
    for trace, (low, high) in zip(
        figure.data, ((-9, -scale / 2), (-scale / 2, scale / 2), (scale / 2, 9)), strict=True
    ):
        assert all(low <= x <= high for x in trace.x)
    total = sum(int(count) for trace in figure.data for count in trace.y)
    assert 0.99 * weight.numel() <= total <= weight.numel()


def test_histogram_takes_numpy_and_constant_weights():
    figure = weight_histogram(torch.full((4, 4), 0.5).numpy(), 0.5)
    assert {a.text for a in figure.layout.annotations} == {
        "<b>-1</b>: 0.0%",
        "<b>0</b>: 0.0%",
        "<b>+1</b>: 100.0%",
    }


class Block(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.up = BitLinear(8, 16, bias=False)
        self.down = BitLinear(16, 8, bias=False, norm_eps=None)
        nn.init.constant_(self.up.norm.weight, gain)


def test_summary_groups_projections_by_kind():
    model = nn.Sequential(nn.Linear(8, 8), Block(0.5), Block(2.0))
    up, down = projection_summary(model)
    assert (up.name, up.layers, up.shapes, up.weights) == ("up", 2, [(16, 8)], 256)
    assert up.gains == pytest.approx([0.5, 2.0])
    assert down.gains == []
    for kind, modules in ((up, [model[1].up, model[2].up]), (down, [model[1].down, model[2].down])):
        for module, zeros, scale in zip(modules, kind.zero_shares, kind.scales, strict=True):
            weight = module.weight.detach()
            assert scale == pytest.approx(float(weight.abs().mean()))
            assert zeros == pytest.approx(float((weight.abs() <= weight.abs().mean() / 2).float().mean()))


def test_summary_table_shows_ranges_and_the_total():
    markup = projection_table(projection_summary(nn.Sequential(Block(0.5), Block(2.0)))).markup
    assert "0.50 to 2.00" in markup
    assert "no norm" in markup
    assert re.search(r"<td>All</td><td>4</td>", markup)


def test_model_without_ternary_layers_has_an_empty_summary():
    assert projection_summary(nn.Linear(4, 4)) == []


def test_floating_point_table_accounts_for_every_number(tiny_embedder):
    report = tiny_embedder.convert("all", ["a text", "another text"])
    markup = floating_point_table(report, tiny_embedder.model).markup
    counts = [int(n.replace(",", "")) for n in re.findall(r"<td>([\d,]+)</td><td>[\d.]+%</td>", markup)]
    assert sum(counts) == sum(p.numel() for p in tiny_embedder.model.parameters())
    assert f"<td>ternary</td><td>{len(report.ternary)}</td>" in markup
    assert "<td>embedding table</td>" in markup


def test_agreement_has_a_dot_for_every_text():
    figure = agreement_by_text({"calibrated": [0.9, 0.8, 0.7], "ternary": [0.1, 0.3, 0.2]})
    assert [list(trace.x) for trace in figure.data] == [[0.9, 0.8, 0.7], [0.1, 0.3, 0.2]]
    assert [trace.name for trace in figure.data] == ["calibrated<br>mean 0.800", "ternary<br>mean 0.200"]
    assert not agreement_by_text({}).data
