"""Runs beside each other: curves on the right axes, settings that differ, and the report as a command."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from workbench.compare import main, read_run, trained_runs
from workbench.config import option
from workbench.figures.comparison import RunData, compare_curves, comparison_table
from workbench.figures.training import moving_mean
from workbench.runs import Run


@dataclass(frozen=True)
class WalkConfig:
    """A configuration."""

    out: str = option("x", "where", changes_result=False)
    rate: float = option(0.1, "rate")
    seed: int = option(0, "seed")
    bits: tuple[int, ...] = option((1, 2), "bits")


def records(count, loss, seconds=2.0):
    return [
        {"stage": "pretrain", "step": step, "steps": 40, "loss": loss / step, "seconds": seconds}
        | {"tokens_per_second": 100.0 * step}
        | ({"dev_ndcg": step / 100, "dev_retention": step / 80} if step % 10 == 0 else {})
        for step in range(1, count + 1)
    ]


@pytest.fixture
def runs(tmp_path):
    """Two run folders that differ in rate and seed, the first with scores."""
    for name, config, count in (("a", WalkConfig(rate=0.5), 40), ("b", WalkConfig(seed=3), 20)):
        run = Run.create(tmp_path / name, config)
        for record in records(count, loss=8.0):
            run.log(record)
    (tmp_path / "a" / "results.json").write_text(json.dumps({"mean": {"float16": 0.7654}}))
    return [str(tmp_path / name) for name in ("a", "b")]


def test_curves_are_drawn_over_steps_or_over_the_hours_they_took():
    data = {
        "slow": RunData("pretrain", {}, records(40, 8.0, seconds=3600)),
        "fast": RunData("pretrain", {}, records(20, 6.0, seconds=900)),
    }
    losses = [trace for trace in compare_curves(data).data if trace.yaxis == "y"]
    assert [trace.name for trace in losses] == ["slow", "fast"]
    assert list(losses[0].x) == list(range(1, 41))
    np.testing.assert_allclose(losses[0].y, moving_mean(np.array([8 / s for s in range(1, 41)])))
    timed = [trace for trace in compare_curves(data, over="hours").data if trace.yaxis == "y"]
    assert list(timed[1].x) == [0.25 * s for s in range(1, 21)]
    dev = [trace for trace in compare_curves(data).data if list(trace.x) == [10, 20, 30, 40]]
    assert [list(trace.y) for trace in dev] == [[s / 80 for s in (10, 20, 30, 40)], [0.1, 0.2, 0.3, 0.4]]
    assert sum(bool(trace.showlegend) for trace in compare_curves(data).data) == 2


def test_the_table_has_outcomes_and_only_the_settings_that_differ(runs):
    page = comparison_table({name: read_run(name) for name in runs}).markup
    rows = {row.split("</td>")[0].split(">")[-1]: row for row in page.split("<tr>")}
    assert "<td>0.5</td><td>0.1</td>" in rows["rate"]
    assert "<td>0</td><td>3</td>" in rows["seed"]
    assert "bits" not in rows
    assert "out" not in rows
    assert "<td>40 of 40</td><td>20 of 40</td>" in rows["steps"]
    assert "<td>0.4000</td><td>0.2000</td>" in rows["best dev nDCG@10"]
    assert "<td>76.54</td><td>-</td>" in rows["mean score, float16"]
    last_tenth = np.mean([8 / s for s in (37, 38, 39, 40)])
    assert f"<td>{last_tenth:.4g}</td>" in rows["loss, last tenth"]


def test_runs_without_records_are_not_offered(runs, tmp_path):
    Run.create(tmp_path / "empty", WalkConfig())
    assert sorted(trained_runs(tmp_path)) == runs


def test_the_report_is_one_file(runs, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert main([*runs, "--out", str(out)]) == 0
    page = out.read_text()
    assert "Settings and outcome" in page
    assert "40 of 40" in page
    assert main([str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_what_is_published_names_no_folder_of_this_machine(tmp_path):
    config = WalkConfig(out=f"{tmp_path}/runs/c,{tmp_path}/d.jsonl,owner/name", rate=0.5)
    run = Run.create(tmp_path / "c", config)
    for record in records(2, loss=8.0):
        run.log(record | {"latent": str(run.latent)})
    out = tmp_path / "runs.json"
    assert main([str(run.path), "--out", str(out)]) == 0
    assert str(tmp_path) not in out.read_text()
    (found,) = json.loads(out.read_text())["runs"]
    assert (found["run"], found["recipe"], found["data"]) == ("c", "walk", [])
    assert found["config"] == {"out": "c,d.jsonl,owner/name", "rate": 0.5, "seed": 0, "bits": [1, 2]}
    assert found["environment"]["packages"]["torch"]
    assert [(r["step"], r["loss"], r["latent"]) for r in found["records"]] == [
        (1, 8, "latent"),
        (2, 4, "latent"),
    ]


def test_no_records_is_said_in_words():
    assert compare_curves({"a": RunData("pretrain", {}, [])}).layout.annotations[0].text == "no records yet"
