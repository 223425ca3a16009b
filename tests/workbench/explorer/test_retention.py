"""Scores from results files: retention by hand, bytes counted anew, other files refused."""

import json
from pathlib import Path

import pytest

from workbench.explorer.retention import find_results, frontier, read_scores

RESULTS = Path(__file__).parents[3] / "kernels" / "benchmarks" / "results"
EVALUATION = {
    "model": "student",
    "dimension": 64,
    "tasks": {"ret_a": {}, "sts_b": {}},
    "scoring": "retrieval: queries in floating point with packed documents; other tasks: decoded",
    "retrieval_index": {"rescore": "int8", "rescored": ["binary"]},
    "mean": {"teacher": 0.8, "untrained": 0.1, "float16": 0.6, "binary": 0.5},
    "mean_by_type": {
        "retrieval": {"teacher": 0.7, "untrained": 0.1, "float16": 0.5, "binary": 0.4},
        "sts": {"teacher": 0.9, "untrained": 0.1, "float16": 0.7, "binary": 0.6},
    },
}
FORMATS = {
    "model": "minilm",
    "formats": {
        "float32": {"bytes_per_vector": 256, "ndcg_at_10": {"a": 50, "b": 30}},
        "int8, symmetric": {"bytes_per_vector": 68, "ndcg_at_10": {"a": 40, "b": 20}},
    },
}


def write(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_evaluation_by_hand(tmp_path):
    rows = {(row.kind, row.way): row for row in read_scores(write(tmp_path, "r.json", EVALUATION))}
    assert len(rows) == 6  # two precisions; the mean and two types
    binary = rows["retrieval", "binary, float queries, rescored with int8"]
    assert binary.bytes_per_vector == 64 / 8 + 4
    assert binary.score == pytest.approx(40)
    assert binary.retention("teacher") == pytest.approx(4 / 7)
    assert binary.retention("float32") == pytest.approx(4 / 5)  # float16 stands in for float32
    assert rows["retrieval", "float16, float queries"].bytes_per_vector == 128
    assert rows["sts", "binary"].retention("teacher") == pytest.approx(6 / 9)
    assert rows["mean", "binary"].retention("float32") == pytest.approx(5 / 6)


def test_formats_by_hand(tmp_path):
    rows = {row.way: row for row in read_scores(write(tmp_path, "r.json", FORMATS))}
    assert rows["int8, symmetric"].retention("float32") == pytest.approx(30 / 40)
    assert rows["int8, symmetric"].retention("teacher") is None
    assert rows["int8, symmetric"].bytes_per_vector == 68
    assert {row.kind for row in rows.values()} == {"retrieval"}


def test_a_base_that_is_not_positive_gives_no_retention(tmp_path):
    broken = EVALUATION | {"mean": EVALUATION["mean"] | {"teacher": -0.2}}
    row = read_scores(write(tmp_path, "r.json", broken))[0]
    assert row.kind == "mean"
    assert row.retention("teacher") is None


def test_patterns_pass_over_what_is_something_else(tmp_path):
    one_format = EVALUATION | {"mean": {"float16": 0.5, "untrained": 0.2}}
    write(tmp_path, "good.json", EVALUATION)
    bad = write(tmp_path, "bad.json", {"rows": []})
    single = write(tmp_path, "single.json", one_format)
    write(tmp_path, "list.json", [1])
    write(tmp_path, "count.json", {"formats": 29})
    write(tmp_path, "number.json", EVALUATION | {"mean": 0.5})
    assert list(find_results([str(tmp_path / "*.json"), str(tmp_path / "none" / "*.json")])) == ["good"]
    for named in (bad, single):
        with pytest.raises(ValueError, match="expected results of `bitembed evaluate`"):
            find_results([named])
    with pytest.raises(FileNotFoundError, match="bitembed evaluate"):
        find_results([str(tmp_path / "absent.json")])


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for run, model in (("first", "a"), ("second", "b")):
        (tmp_path / run).mkdir()
        write(tmp_path / run, "results.json", EVALUATION | {"model": model})
    found = find_results([str(tmp_path / "*" / "results.json")])
    assert {name: rows[0].model for name, rows in found.items()} == {
        "first/results": "a",
        "second/results": "b",
    }


def test_committed_results_are_understood():
    found = find_results([str(RESULTS / "*.json")])
    assert {"evaluation_minilm_full", "storage_formats_minilm"} <= found.keys()
    content = json.loads((RESULTS / "evaluation_minilm_full.json").read_text(encoding="utf-8"))
    rows = found["evaluation_minilm_full"]
    for row in rows:
        if row.kind == "mean":
            assert row.retention("teacher") == pytest.approx(content["retention"][row.way])
            assert row.bytes_per_vector == content["bytes_per_vector"][row.way]


def test_frontier_keeps_what_no_other_point_beats():
    sizes, values = [4, 1, 2, 2, 3, 4], [0.9, 0.5, 0.7, 0.8, 0.8, 0.9]
    kept = frontier(sizes, values)
    assert [sizes[index] for index in kept] == [1, 2, 4]
    for index in range(len(sizes)):
        beaten = any(
            (sizes[o] <= sizes[index] and values[o] > values[index])
            or (sizes[o] < sizes[index] and values[o] >= values[index])
            for o in range(len(sizes))
        )
        if index in kept:
            assert not beaten
