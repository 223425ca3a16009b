"""Figures of a deployment: every measurement is drawn and every byte is right."""

import re

import pytest

from workbench.deploy import Answer, Measurement
from workbench.figures.deployment import answer_card, format_table, measurement_table, speed_by_length
from workbench.search.index import Hit
from workbench.speed import Speed, Timing


def measurement(kernel, texts_per_second, resident=3_000_000):
    together = [Timing(length, 64, texts_per_second, texts_per_second * length, 0.1) for length in (15, 60)]
    alone = [timing._replace(texts=1, texts_per_second=texts_per_second / 2) for timing in together]
    return Measurement("a <model>", kernel, "a processor", Speed(together, alone), 2_500_000, resident, 1.0)


def test_a_line_for_each_measurement_in_both_panels():
    figure = speed_by_length([measurement("native", 100.0), measurement("int8", 20.0)])
    batched, alone, slow_batched, _ = figure.data
    assert list(batched.x) == [15, 60]
    assert list(batched.y) == [1500.0, 6000.0]
    assert list(alone.y) == [20.0, 20.0]  # 50 texts a second
    assert list(slow_batched.y) == [300.0, 1200.0]
    assert batched.name == "1: a <model>, native"
    assert not speed_by_length([]).data


def test_table_escapes_names_and_admits_what_is_unknown():
    markup = measurement_table([measurement("native", 100.0), measurement("int8", 20.0, None)]).markup
    assert "1: a &lt;model&gt;, native" in markup
    assert "<td>2.5 MB</td><td>3 MB</td>" in markup
    assert "<td>?</td>" in markup
    assert "<td>15 tokens a text</td><td>1,500</td><td>10.00</td><td>20.00</td>" in markup


@pytest.mark.parametrize(
    ("name", "size"), [("float32", 1536), ("int8", 388), ("binary", 52), ("ternary-fitted", 81)]
)
def test_bytes_of_a_format(name, size):
    markup = format_table(384, 2000, "int8").markup
    row = re.search(rf"<td>{name}</td><td>([\d,]+)</td><td>([\d.,]+) MB</td><td>([\d,]+) MB</td>", markup)
    assert row[1] == f"{size:,}"
    assert (row[2], row[3]) == (f"{size * 2000 / 1e6:,.2f}", f"{size:,}")
    assert "<tr class='total'><td>int8</td>" in markup
    assert "int8-128d" in format_table(384, 2000, "int8-128d").markup


def test_answer_is_in_order_and_escaped():
    answer = Answer("what <is>", [Hit("a", "first <b>", 0.9), Hit("b", "second " * 99, 0.5)], 1.25, 0.5)
    markup = answer_card(answer).markup
    assert "what &lt;is&gt;" in markup
    assert markup.index("first &lt;b&gt;") < markup.index("second")
    assert "0.900" in markup
    assert " ..." in markup
    assert "1.2 ms to encode the query, 0.5 ms to search" in markup
