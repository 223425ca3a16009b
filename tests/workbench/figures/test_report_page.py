"""The report is one file that needs nobody, escapes what it is given, and is written whole or not at all."""

import re

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from workbench.figures import Html, Neighbours, Section, find_neighbours, nearest_neighbours, write_report
from workbench.figures.report import render_report


def page_without_plotly(title="T", summary="S", sections=()):
    return render_report(title, summary, sections).replace(get_plotlyjs(), "")


def test_plotly_is_in_the_page_once_and_nothing_is_fetched(tmp_path):
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    path = tmp_path / "deep" / "report.html"
    write_report(
        path, "Title", "Summary", [Section("One", "Text", [figure, figure]), Section("Two", "", [figure])]
    )
    page = path.read_text(encoding="utf-8")
    assert page.count(get_plotlyjs()) == 1
    rest = page.replace(get_plotlyjs(), "")
    assert not re.search(r"(src|href)\s*=\s*['\"](https?:)?//", rest)
    assert "default-src 'none'" in rest
    assert rest.count("Plotly.newPlot") == 3
    assert len(set(re.findall(r"id=\"(figure-[\d-]+)\"", rest))) == 3
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_same_input_same_bytes():
    sections = [Section("One", "Text", [go.Figure(go.Bar(x=["a"], y=[1]))])]
    assert render_report("T", "S", sections) == render_report("T", "S", sections)


def test_text_is_escaped_and_split_into_paragraphs():
    page = page_without_plotly("a < b", "first & last\n\nsecond", [Section("<i>", "x > y")])
    assert "<h1>a &lt; b</h1>" in page
    assert "<p>first &amp; last</p>\n<p>second</p>" in page
    assert "<i>" not in page
    assert "<p>x &gt; y</p>" in page


def test_html_goes_in_as_it_is():
    assert "<em>yes</em>" in page_without_plotly(summary=Html("<em>yes</em>"))


def test_a_failure_keeps_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_report(path, "T", "S", [Section("One", "", [object()])])
    assert path.read_text() == "old"


BEFORE = [Neighbours("query", ["a", "b", "c"], [0.9, 0.8, 0.7])]


def test_neighbours_that_agree_are_marked_and_counted():
    after = [Neighbours("query", ["b", "x", "a"], [0.6, 0.5, 0.4])]
    untrained = [Neighbours("query", ["x", "y", "z"], [0.99, 0.98, 0.97])]
    markup = nearest_neighbours(BEFORE, after, untrained=untrained).markup
    assert "Ternary, trained: 2 of 3 agree" in markup
    assert "Ternary, before training: 0 of 3 agree" in markup
    assert markup.count("&#10003;</span>") == 2
    assert markup.index("before training") < markup.index("Ternary, trained")


def test_neighbours_are_escaped_and_long_texts_cut():
    after = [Neighbours("query", ["<script>", "word " * 100, "c"], [0.6, 0.5, 0.4])]
    markup = nearest_neighbours(BEFORE, after).markup
    assert "<script>" not in markup
    assert "word " * 50 not in markup


def test_neighbours_of_other_queries_are_refused():
    with pytest.raises(ValueError, match="queries of 'Ternary, trained' differ"):
        nearest_neighbours(BEFORE, [Neighbours("another", ["a"], [0.5])])


def test_neighbours_are_found_by_cosine(tiny_embedder):
    texts = ["the cat", "a dog", "ternary weights", "a vector"]
    (found,) = find_neighbours(tiny_embedder, ["a dog"], texts, top=2)
    assert found.texts[0] == "a dog"
    assert found.scores[0] == pytest.approx(1, abs=1e-5)
    everything = {text: float(tiny_embedder.encode("a dog") @ tiny_embedder.encode(text)) for text in texts}
    assert sorted(everything, key=everything.get, reverse=True)[:2] == list(found.texts)
