"""Figures of the storage explorer: the points are where the numbers say."""

import re

import pytest

from workbench.explorer.formats import Recall, Setting
from workbench.explorer.retention import StoredScore
from workbench.figures.storage_explorer import (
    PLAN_MEASURES,
    cheapest_in_words,
    plan_bars,
    plan_table,
    recall_against_bytes,
    retention_against_bytes,
)
from workbench.search.planner import Prices, Rates, plan

SCORES = [
    StoredScore("m", "mean", "int8", 388, 60, 62, 80),
    StoredScore("m", "mean", "int2", 100, 50, 62, 80),
    StoredScore("m", "mean", "int2-fitted", 100, 55, 62, 80),
    StoredScore("other", "sts", "int8", 388, 61, 62, None),
]
RECALLS = [
    Recall(Setting("int8"), 388, 0, 0.97),
    Recall(Setting("binary", rescore="int8"), 52, 388, 0.9),
    Recall(Setting("binary-192d", rescore="int8"), 28, 388, 0.7),
]
RATES = Rates(bytes_read=1e10, code_products=1e12, float_products=1e11, trellis_values=1e9, threads=2)


def points(figure):
    return {
        (trace.customdata[index][0], x): y
        for trace in figure.data
        if trace.customdata is not None
        for index, (x, y) in enumerate(zip(trace.x, trace.y, strict=True))
    }


def test_retention_is_in_percent_of_the_base_and_the_frontier_is_joined():
    figure = retention_against_bytes(SCORES, "teacher")
    expected = {("int8", 388): 75, ("int2", 100): 62.5, ("int2-fitted", 100): 68.75}
    assert points(figure) == pytest.approx(expected)
    (joined,) = [trace for trace in figure.data if "lines" in trace.mode]
    assert list(joined.x) == [100, 388]
    assert list(joined.y) == pytest.approx([68.75, 75])
    own = points(retention_against_bytes(SCORES, "float32"))
    assert own["int2", 100] == pytest.approx(100 * 50 / 62)
    assert len({trace.marker.symbol for trace in retention_against_bytes(SCORES, "float32").data}) == 2


def test_without_a_base_it_says_so():
    figure = retention_against_bytes(SCORES[3:], "teacher")
    assert not figure.data
    assert "teacher" in figure.layout.annotations[0].text


def test_recall_by_bytes_with_what_rescoring_added():
    before = [Recall(Setting("binary"), 52, 0, 0.5), Recall(Setting("binary-192d"), 28, 0, 0.4)]
    figure = recall_against_bytes(RECALLS, before, wanted=0.9)
    assert points(figure) == pytest.approx({("int8", 388): 97, ("binary", 52): 90, ("binary-192d", 28): 70})
    added = [list(trace.y) for trace in figure.data if trace.mode == "lines+markers"]
    assert added == [[50, 90], [40, 70]]
    assert {trace.name for trace in figure.data if trace.name} == {"all dimensions", "first 192 dimensions"}
    assert [shape.y0 for shape in figure.layout.shapes] == [90]
    assert not recall_against_bytes([]).data


def test_the_verdict_names_the_smallest_format_that_is_good_enough():
    said = cheapest_in_words(RECALLS, 0.9)
    assert "binary, 52 bytes per vector, and 388 of int8" in said
    assert "90.0 %" in said
    assert "None" in cheapest_in_words(RECALLS, 0.99)


def test_plan_shows_every_format_with_money_at_the_given_prices():
    plans = plan(10**9, 384, RATES, precisions=["float32", "binary"])
    prices = Prices(memory=2, disk=1)
    cells = re.findall(r"<td>(.*?)</td>", plan_table(plans, prices, 10).markup)
    gigabytes = 52 + 16  # a thousand million vectors, each with its id
    assert cells[8:] == [
        "binary",
        "52",
        "68 GB",
        "68 GB",
        "520 GB/s",
        "5.2 s",
        "memory",
        f"{gigabytes * 2 + gigabytes:.2f}",
    ]
    for measure, expected in (("Memory", 68), ("Money per month", 204), ("Time per query", 5.2)):
        (bars,) = plan_bars(plans, measure, prices).data
        assert dict(zip(bars.y, bars.x, strict=True))["binary"] == pytest.approx(expected)
    assert set(PLAN_MEASURES) == {"Money per month", "Memory", "Disk", "Time per query"}
