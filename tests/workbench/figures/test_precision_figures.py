"""Figures and the table of results: retentions recomputed here by hand, bytes counted with their scales."""

import re

import pytest

from workbench.figures import retention_by_precision, score_table, storage_versus_accuracy

SCORES = {
    "ret_a": {"teacher": 0.8, "untrained": 0.1, "float16": 0.6, "int8": 0.6, "int2": 0.5, "binary": 0.4},
    "ret_b": {"teacher": 0.4, "untrained": 0.1, "float16": 0.4, "int8": 0.3, "int2": 0.3, "binary": 0.2},
    "sts_c": {"teacher": 0.9, "untrained": 0.2, "float16": 0.9, "int8": 0.9, "int2": 0.8, "binary": 0.8},
}
PRECISIONS = ["float16", "int8", "int2", "binary"]


TYPES = {"ret_a": "retrieval", "ret_b": "retrieval", "sts_c": "sts"}


def means(rows):
    return {column: sum(row[column] for row in rows) / len(rows) for column in rows[0]}


@pytest.fixture
def results():
    by_type = {kind: means([SCORES[t] for t in SCORES if TYPES[t] == kind]) for kind in ("retrieval", "sts")}
    return {
        "dimension": 384,
        "tasks": {name: dict(scores) for name, scores in SCORES.items()},
        "task_types": TYPES,
        "mean_by_type": by_type,
        "mean": means(list(by_type.values())),
    }


def lines(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def test_retention_is_a_ratio_of_mean_scores(results):
    of_teacher, of_own = lines(retention_by_precision(results), "Retrieval")
    assert list(of_teacher.x) == PRECISIONS
    assert list(of_teacher.y) == pytest.approx([100 * s / 1.2 for s in (1.0, 0.9, 0.8, 0.6)])
    assert list(of_own.y) == pytest.approx([100, 90, 80, 60])
    mean_of_teacher, mean_of_own = lines(retention_by_precision(results), "Mean over 2 types")
    assert mean_of_teacher.y[0] == pytest.approx(100 * (0.5 + 0.9) / (0.6 + 0.9))
    assert mean_of_own.y[3] == pytest.approx(100 * (0.3 + 0.8) / (0.5 + 0.9))


def test_retention_without_a_teacher_has_one_panel(results):
    for scores in (results["mean"], *results["mean_by_type"].values()):
        del scores["teacher"]
    assert len(lines(retention_by_precision(results), "Retrieval")) == 1


def test_a_missing_score_is_a_gap(results):
    del results["mean_by_type"]["retrieval"]["int8"]
    retrieval, _ = lines(retention_by_precision(results), "Retrieval")
    assert retrieval.y[1] is None
    assert retrieval.y[0] is not None


def test_results_with_tasks_and_means_only_are_enough(results):
    for optional in ("task_types", "mean_by_type"):
        del results[optional]
    assert len(lines(retention_by_precision(results), "Mean")) == 2
    assert [row[0] for row in cells(score_table(results).markup)][1:5] == ["ret_a", "ret_b", "sts_c", "Mean"]
    assert storage_versus_accuracy(results).data


def test_storage_counts_codes_and_scales(results):
    (points, *_) = storage_versus_accuracy(results).data
    assert list(points.x) == [768, 384 + 4, 96 + 4, 48 + 4]
    assert list(points.y) == pytest.approx([70, 67.5, 60, 55])
    (points, *_) = storage_versus_accuracy(results, 64).data
    assert list(points.x) == [128, 64 + 4, 16 + 4, 8 + 4]


def test_storage_draws_teacher_and_untrained_as_lines(results):
    texts = {annotation.text for annotation in storage_versus_accuracy(results).layout.annotations}
    assert texts == {"teacher: 75.0", "before training: 15.0"}


def test_nothing_to_draw_is_said_in_words():
    nothing = {"dimension": 8, "tasks": {}, "mean": {}}
    for figure in (retention_by_precision(nothing), storage_versus_accuracy(nothing)):
        assert not figure.data
        assert figure.layout.annotations


def cells(markup):
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", markup)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_score_table_has_types_with_means_then_tasks_then_shares(results):
    rows = cells(score_table(results).markup)
    assert rows[0] == ["Task", "teacher", "before training", *PRECISIONS]
    assert [row[0] for row in rows[1:]] == [
        "Retrieval",
        "ret_a",
        "ret_b",
        "Similarity (STS)",
        "sts_c",
        "Mean over 2 types",
        "% of the teacher",
        "% of own float16",
    ]
    assert rows[1][1:] == ["60.00", "10.00", "50.00", "45.00", "40.00", "30.00"]
    assert rows[2][1:] == ["80.00", "10.00", "60.00", "60.00", "50.00", "40.00"]
    assert rows[4][1:] == [""] * 6
    assert rows[-2][1:] == ["100.0 %", "20.0 %", "93.3 %", "90.0 %", "80.0 %", "73.3 %"]
    assert rows[-1][1:] == ["", "", "100.0 %", "96.4 %", "85.7 %", "78.6 %"]


def test_score_table_says_what_was_left_out(results):
    results["caps"] = {"ret_a": "300 of 1,000 queries, 300 of 5,449 documents"}
    assert "ret_a 300 of 1,000 queries, 300 of 5,449 documents." in score_table(results).markup


def test_score_table_escapes_names_of_tasks():
    scores = {"float16": 0.5}
    markup = score_table({"tasks": {"<b>x</b>": scores}, "mean": scores}).markup
    assert "<b>x</b>" not in markup
    assert "&lt;b&gt;x&lt;/b&gt;" in markup


def test_formats_of_one_size_are_points_without_a_line(results):
    (before,) = storage_versus_accuracy(results, 128).data
    assert before.mode == "lines+markers+text"
    results["mean"] |= {"int2-fitted": 0.7, "int8-64d": 0.65}
    (points,) = storage_versus_accuracy(results, 128).data
    assert points.mode == "markers+text"
    assert list(points.x) == sorted(points.x, reverse=True)
    names = [row[0] for row in points.customdata]
    assert dict(zip(names, points.x, strict=True))["int8-64d"] == 64 + 4
