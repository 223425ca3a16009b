"""Titles that a phone can show."""

from html import unescape
from itertools import pairwise

import plotly.graph_objects as go
import pytest

from workbench.figures.theme import SUBTITLE_CHARACTERS, lines, styled

LONG = "what the values &#177;&#916; of a layer are, and why nobody would have guessed that they are these"


@pytest.mark.parametrize("characters", [1, 12, 56, 500])
def test_lines_are_no_longer_than_they_may_be_and_lose_no_word(characters):
    cut = lines(LONG, characters).split("<br>")
    assert " ".join(cut) == LONG
    assert all(len(unescape(line)) <= characters or " " not in line for line in cut)
    for line, following in pairwise(cut):  # no line is ended too early
        assert len(unescape(f"{line} {following.split()[0]}")) > characters


def test_nothing_is_cut_from_nothing():
    assert lines("", 10) == ""


def test_a_title_of_more_lines_leaves_the_plot_as_high_as_it_was():
    short, tall = styled(go.Figure(), "t", "s"), styled(go.Figure(), "t", LONG)
    assert "<br>" in tall.layout.title.subtitle.text
    assert len(LONG) > SUBTITLE_CHARACTERS
    assert tall.layout.margin.t > short.layout.margin.t
    assert tall.layout.height - tall.layout.margin.t == short.layout.height - short.layout.margin.t
