"""Figures of relations: every token has a place of its own, compared maps share their colours."""

import numpy as np
import pytest

from workbench.figures.relations import (
    divergence_by_head,
    divergence_by_layer,
    divergence_by_token,
    relation_map,
    relation_row,
    strongest_relation,
)

TOKENS = ["the", "bank", "the", "internationalisation"]
MAP = np.array(
    [[0.7, 0.1, 0.15, 0.05], [0.2, 0.6, 0.1, 0.1], [0.3, 0.1, 0.5, 0.1], [0, 0.1, 0, 0.9]], np.float32
)


def test_map_shows_every_token_in_its_row_and_column_and_ends_its_colours_where_told():
    figure = relation_map(TOKENS, MAP, "before", "K", largest=0.3)
    (trace,) = figure.data
    np.testing.assert_array_equal(trace.z, MAP)
    assert (trace.zmin, trace.zmax) == (0, 0.3)
    assert trace.hovertext[1][3] == "<b>bank</b> to <b>internationalisation</b>: 0.1000"
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert list(axis.tickvals) == [0, 1, 2, 3]  # both "the" keep their places
        assert list(axis.ticktext) == ["the", "bank", "the", "internation\u2026"]
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.title.text == "Student before distillation"
    assert "K-K" in figure.layout.title.subtitle.text


def test_strongest_relation_leaves_out_that_to_itself():
    assert strongest_relation(MAP) == pytest.approx(0.3)
    assert strongest_relation(np.ones((1, 1), np.float32)) == 1


def test_row_tells_both_probabilities_of_the_clicked_pair():
    figure = relation_row(TOKENS, {"teacher": MAP[1], "after": MAP[2]}, row=1, column=2, phi="Q")
    assert [trace.name for trace in figure.data] == ["Teacher", "Student after distillation"]
    np.testing.assert_array_equal(figure.data[1].y, MAP[2])
    assert figure.layout.title.text == "Q-Q: \u201cbank\u201d to \u201cthe\u201d"
    assert figure.layout.title.subtitle.text == "teacher 0.100, after 0.500"
    (marked,) = figure.layout.shapes
    assert (marked.x0, marked.x1) == (1.5, 2.5)


def test_divergence_by_token_has_a_bar_per_token_and_student():
    figure = divergence_by_token(TOKENS, {"before": np.arange(4.0), "after": np.arange(4.0) / 2}, "V")
    assert [list(trace.y) for trace in figure.data] == [[0, 1, 2, 3], [0, 0.5, 1, 1.5]]
    assert list(figure.data[0].customdata) == TOKENS


def test_divergence_by_layer_draws_every_phi_and_marks_the_layer():
    values = {name: np.arange(6.0) * factor for factor, name in enumerate(("mean", "Q", "K", "V"), start=1)}
    figure = divergence_by_layer({"before": values, "after": values}, 3, "9 tokens of 2 texts")
    lines = {trace.name: list(trace.y) for trace in figure.data if "lines" in trace.mode}
    assert lines == {
        f"Student {when} distillation, mean": list(values["mean"]) for when in ("before", "after")
    }
    assert sum(trace.mode == "markers" for trace in figure.data) == 6
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 3
    assert "9 tokens of 2 texts" in figure.layout.title.subtitle.text


def test_divergence_by_head_has_a_cell_per_layer_and_head():
    values = np.arange(8.0).reshape(2, 4)
    figure = divergence_by_head(values, "after", "Q", largest=10.0)
    np.testing.assert_array_equal(figure.data[0].z, values)
    assert figure.data[0].zmax == 10
    assert figure.layout.title.subtitle.text == "student after distillation, Q-Q"
