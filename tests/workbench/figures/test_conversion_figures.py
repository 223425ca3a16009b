"""The pictures of a conversion hold the numbers that they are given."""

import numpy as np
import pytest
import torch
from torch import nn

from bitembed_core.bitlinear import BitLinear
from workbench.activations import InputSizes
from workbench.figures import (
    activation_ranges,
    bytes_bars,
    projection_summary,
    similarities_before_and_after,
    zero_share_by_layer,
)


def sizes(rng):
    rms = rng.uniform(0.1, 2, 201).astype(np.float32)
    return InputSizes(rms, rms * rng.uniform(1, 20, 201).astype(np.float32))


def test_boxes_are_the_quantiles_of_every_layer():
    rng = np.random.default_rng(0)
    before, after = ({layer: sizes(rng) for layer in (0, 1, 4)} for _ in range(2))
    figure = activation_ranges(before, after, "mlp.down_proj", has_norm=True)
    drawn = [(trace, given) for trace, given in zip(figure.data, (before, before, after, after), strict=True)]
    for number, (trace, given) in enumerate(drawn):
        assert list(trace.x) == [0, 1, 4]
        for place, layer in enumerate(given):
            ratio = given[layer].largest / given[layer].rms
            values = np.sort(given[layer].rms if number % 2 == 0 else ratio)
            assert trace.median[place] == pytest.approx(values[100])
            assert (trace.q1[place], trace.q3[place]) == pytest.approx((values[50], values[150]))
            assert (trace.lowerfence[place], trace.upperfence[place]) == pytest.approx(
                (values[0], values[-1])
            )
    assert figure.data[2].name == "converted, after its norm"
    assert "no norm" in activation_ranges(before, after, "q_proj", has_norm=False).data[2].name
    assert not activation_ranges({}, {}, "q_proj", has_norm=False).data


def test_bars_add_up_and_are_labelled_with_the_sum():
    forms = {"before": {"table": 3_000_000, "rest": 1_000_000, "a": 0, "b": 0}}
    forms["after"] = {"table": 1_500_000, "rest": 100_000, "a": 0, "b": 0}
    figure = bytes_bars(forms)
    stacked = {form: sum(trace.x[place] for trace in figure.data) for place, form in enumerate(forms)}
    assert stacked == pytest.approx({"before": 4.0, "after": 1.6})
    assert [a.text for a in figure.layout.annotations] == ["<b>4.0 MB</b>", "<b>1.6 MB</b>  1/2.5"]
    assert not bytes_bars({}).data


def test_every_pair_of_texts_is_in_its_cell():
    rng = np.random.default_rng(1)
    original, changed = rng.uniform(-0.5, 1, (2, 300))
    heatmap, diagonal = similarities_before_and_after({"ternary": (original, changed)}).data
    counts = np.asarray(heatmap.customdata)
    assert counts.sum() == 300
    step = heatmap.x[1] - heatmap.x[0]
    for row, column in ((3, 5), (20, 40), (47, 47)):
        inside = (np.abs(original - heatmap.x[column]) <= step / 2) & (
            np.abs(changed - heatmap.y[row]) <= step / 2
        )
        assert counts[row, column] == inside.sum()
    assert list(diagonal.x) == list(diagonal.y)
    assert not similarities_before_and_after({}).data


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = BitLinear(64, 32, bias=False)


def test_zero_shares_are_those_of_the_rounded_weights():
    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block(), Block())
    (line,) = zero_share_by_layer(projection_summary(model)).data
    rounded = [torch.round(b.up.weight / (b.up.weight.abs().mean() + 1e-5)) for b in model]
    assert line.y == pytest.approx([100 * float((codes == 0).float().mean()) for codes in rounded])
    assert not zero_share_by_layer([]).data
