"""Titles that a phone can show."""

from itertools import pairwise

import plotly.graph_objects as go
import pytest

from workbench.figures.theme import LEGEND, SUBTITLE_CHARACTERS, lines, styled

LONG = "what the values \u00b1\u0394 of a layer are, and why nobody would have guessed that they are these"


@pytest.mark.parametrize("characters", [1, 12, 56, 500])
def test_lines_are_no_longer_than_they_may_be_and_lose_no_word(characters):
    cut = lines(LONG, characters).split("<br>")
    assert " ".join(cut) == LONG
    assert all(len(line) <= characters or " " not in line for line in cut)
    for line, following in pairwise(cut):  # no line is ended too early
        assert len(f"{line} {following.split()[0]}") > characters


def test_nothing_is_cut_from_nothing():
    assert lines("", 10) == ""


def test_a_title_of_more_lines_leaves_the_plot_as_high_as_it_was():
    short, tall = styled(go.Figure(), "t", "s"), styled(go.Figure(), "t", LONG)
    assert "<br>" in tall.layout.title.subtitle.text
    assert len(LONG) > SUBTITLE_CHARACTERS
    assert tall.layout.margin.t > short.layout.margin.t
    assert tall.layout.height - tall.layout.margin.t == short.layout.height - short.layout.margin.t


@pytest.mark.parametrize(("height", "above", "subtitle"), [(300, 0, ""), (500, 40, ""), (500, 0, LONG)])
def test_legends_are_as_far_below_whatever_the_height(height, above, subtitle):
    layout = styled(go.Figure(), "t", subtitle, height, above).layout
    plot_pixels = layout.height - layout.margin.t - layout.template.layout.margin.b
    assert layout.legend.y * plot_pixels == pytest.approx(-LEGEND)
