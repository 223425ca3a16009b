"""Heatmaps of the layers: the right number in the right cell, names that tell layers apart."""

import math

import numpy as np
import pytest

from workbench.figures.layers import LAYER_MEASURES, layer_heatmap, layer_labels

NAMES = ["encoder.layer.0.attention.self.query", "encoder.layer.1.attention.self.query"]


def report(step, *values):
    layers = {name: dict.fromkeys(LAYER_MEASURES, value) for name, value in zip(NAMES, values, strict=True)}
    return {"step": step, "since": step - 5, "layers": layers}


@pytest.mark.parametrize("measure", LAYER_MEASURES)
def test_rows_are_layers_and_columns_reports(measure):
    figure = layer_heatmap([report(5, 0.1, 0.2), report(10, 0.3, 0.0)], measure)
    (heatmap,) = figure.data
    assert list(heatmap.x) == ["5", "10"]
    assert list(heatmap.y) == ["0 query", "1 query"]
    assert np.array(heatmap.customdata)[..., 0].tolist() == [[0.1, 0.3], [0.2, 0.0]]
    assert np.array(heatmap.customdata)[..., 1].tolist() == [[0, 5], [0, 5]]
    drawn = np.array(heatmap.z)
    if LAYER_MEASURES[measure].log:
        assert drawn[0].tolist() == pytest.approx([-1, math.log10(0.3)])
        assert math.isnan(drawn[1, 1])  # nothing flipped: no colour
        ticks = dict(zip(heatmap.colorbar.tickvals, heatmap.colorbar.ticktext, strict=True))
        shown = {text: 10**value for value, text in ticks.items()}
        unit = " %" if LAYER_MEASURES[measure].percent else ""
        for text, value in shown.items():
            assert float(text.removesuffix(unit)) == pytest.approx(100 * value if unit else value, rel=0.05)
    else:
        assert drawn.tolist() == [[0.1, 0.3], [0.2, 0.0]]


def test_without_reports_it_says_so():
    assert "watch_every" in layer_heatmap([]).layout.annotations[0].text


def test_labels_are_short_and_tell_the_layers_apart():
    names = [
        "encoder.layer.0.attention.self.query",
        "encoder.layer.0.attention.output.dense",
        "encoder.layer.0.output.dense",
        "encoder.layer.11.attention.self.query",
    ]
    assert layer_labels(names) == ["0 query", "0 attention.output.dense", "0 output.dense", "11 query"]
    assert layer_labels(["layers.3.self_attn.q_proj", "layers.3.mlp.up_proj"]) == ["3 q_proj", "3 up_proj"]
