"""Means, retentions, the file and the table, restated."""

import pytest

from bitembed_core.files import read_json
from workbench.evaluation import retention_table, write_results
from workbench.evaluation.results import retention, summarize

TASKS = {
    "ret_a": {"teacher": 0.8, "untrained": 0.1, "float16": 0.6, "binary": 0.3},
    "ret_b": {"teacher": 0.6, "untrained": 0.3, "float16": 0.4, "binary": 0.1},
    "sts_a": {"teacher": 0.5, "untrained": 0.4, "float16": 0.45, "binary": 0.4},
}
TYPES = {"ret_a": "retrieval", "ret_b": "retrieval", "sts_a": "sts"}


def results(**changes):
    summary = summarize(TASKS, TYPES)
    return {
        "model": "m",
        "teacher": "t",
        "environment": {},
        "kernel": "float",
        "tasks": TASKS,
        **summary,
        **changes,
    }


def test_the_mean_is_over_types():
    summary = summarize(TASKS, TYPES)
    for column in ("teacher", "untrained", "float16", "binary"):
        retrieval = (TASKS["ret_a"][column] + TASKS["ret_b"][column]) / 2
        assert summary["mean_by_type"]["retrieval"][column] == pytest.approx(retrieval)
        assert summary["mean"][column] == pytest.approx((retrieval + TASKS["sts_a"][column]) / 2)


def test_retention_is_relative_to_the_teacher_and_to_float16():
    summary = summarize(TASKS, TYPES)
    teacher, float16 = (0.7 + 0.5) / 2, (0.5 + 0.45) / 2
    binary, untrained = (0.2 + 0.4) / 2, (0.2 + 0.4) / 2
    assert summary["retention"] == pytest.approx(
        {"untrained": untrained / teacher, "float16": float16 / teacher, "binary": binary / teacher}
    )
    assert summary["retention_of_float16"] == pytest.approx({"binary": binary / float16})


def test_no_reference_no_retention():
    alone = {name: {"int8": scores["float16"]} for name, scores in TASKS.items()}
    summary = summarize(alone, TYPES)
    assert summary["retention"] == summary["retention_of_float16"] == {}
    assert retention({"teacher": -0.1, "int8": 0.2}, "teacher") == {}


def test_table():
    table = retention_table(
        results(caps={"ret_b": "3 of 9 queries"}, left_out={"cls_x": "npm is not installed"})
    )
    lines = table.splitlines()
    assert lines[0].split() == ["task", "teacher", "untrained", "float16", "binary", "cap"]
    assert lines[2].split() == ["ret_a", "80.00", "10.00", "60.00", "30.00"]
    assert lines[3].endswith("10.00  3 of 9 queries")
    assert any(line.startswith("mean over types") and "47.50" in line for line in lines)
    assert any(line.startswith("of the teacher") and "79.2 %" in line for line in lines)
    assert any(line.startswith("of own float16") and line.endswith("63.2 %") for line in lines)
    assert lines[-1] == "left out: cls_x (npm is not installed)"


def test_table_without_caps_and_teacher_is_narrower():
    tasks = {"sts_a": {"float16": 0.5}}
    table = retention_table(results(tasks=tasks, **summarize(tasks, TYPES)))
    assert table.splitlines()[0].split() == ["task", "float16"]
    assert "teacher" not in table
    assert "mean sts" not in table


def test_write_results(tmp_path):
    write_results(tmp_path / "deep" / "results.json", results())
    assert read_json(tmp_path / "deep" / "results.json") == results()
    with pytest.raises(ValueError, match="kernel, mean is missing"):
        write_results(
            tmp_path / "other.json", {k: v for k, v in results().items() if k not in {"kernel", "mean"}}
        )
    assert not (tmp_path / "other.json").exists()
