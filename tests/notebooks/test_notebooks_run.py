"""Every notebook runs: inside another program on a two-step configuration, and as a script with arguments."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from workbench.deploy import DeployConfig
from workbench.explorer.corpus import ExplorerConfig
from workbench.job import records_of
from workbench.recipes.convert import ConvertConfig
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import StagesConfig
from workbench.relations import RelationsConfig
from workbench.runs import Run

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
CONFIGS = {
    "attention_relations": RelationsConfig,
    "convert": ConvertConfig,
    "pretrain": PretrainConfig,
    "distill": StagesConfig,
    "storage_explorer": ExplorerConfig,
    "deploy": DeployConfig,
}


def load(name):
    """The notebook as a module; none of its cells has run."""
    return load_file(NOTEBOOKS / f"{name}.py")


def load_file(path):
    spec = importlib.util.spec_from_file_location(f"notebook_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(*command):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=environment, cwd=ROOT, **pipes)


def finish(process):
    """Exit code, standard output and standard error."""
    try:
        out, error = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, out, error


@pytest.fixture(scope="module")
def started():
    """Commands that need nothing, started together, since most of their time goes into imports."""
    commands = {name: start(NOTEBOOKS / f"{name}.py", "--help") for name in CONFIGS}
    commands["refused"] = start(NOTEBOOKS / "pretrain.py", "--steps", "0")
    commands["check"] = start("-m", "marimo", "check", "--strict", NOTEBOOKS)
    yield commands
    for process in commands.values():
        process.kill()


def test_every_notebook_is_tested():
    page = {"storage_explorer_page"}  # has no settings; see test_storage_explorer
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == set(CONFIGS) | page


def test_notebooks_are_tidy(started):
    """marimo's own check: no cycles, no name defined twice, the format that the editor would save."""
    code, out, error = finish(started["check"])
    assert code == 0, out + error


@pytest.mark.parametrize("name", CONFIGS)
def test_notebooks_are_thin(name):
    assert len((NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 250


@pytest.mark.parametrize("name", CONFIGS)
def test_help_lists_every_setting(started, name):
    code, out, error = finish(started[name])
    assert code == 0, error
    for item in fields(CONFIGS[name]):
        assert f"--{item.name.replace('_', '-')} " in out
    assert "--run" in out


def test_convert_inside_another_program(backbone, examples, tmp_path):
    config = ConvertConfig(
        backbone=backbone,
        out=str(tmp_path / "run"),
        calibration_texts=examples,
        calibration_size=8,
        held_out_size=4,
    )
    _, names = load("convert").app.run(defs={"config": config, "run_now": True})
    converted = names["converted"]
    assert converted.embedder.is_ternary
    assert set(converted.agreement) == {"norms with gain 1", "calibrated norms", "ternary"}
    assert (tmp_path / "run" / "latent" / "config.json").is_file()


def test_convert_as_a_script_and_as_a_saved_page_honours_its_arguments(backbone, examples, tmp_path):
    def arguments(run):
        sizes = ("--calibration-size", "8", "--held-out-size", "4", "--sites", "output")
        return ("--backbone", backbone, "--out", str(tmp_path / run), "--calibration-texts", examples, *sizes)

    page = ("-m", "marimo", "export", "html", NOTEBOOKS / "convert.py", "-o", tmp_path / "page.html", "--")
    processes = {
        "script": start(NOTEBOOKS / "convert.py", *arguments("script")),
        "page": start(*page, *arguments("page"), "--run"),
    }
    for run, process in processes.items():
        code, out, error = finish(process)
        assert code == 0, out + error
        said = json.loads((tmp_path / run / "config.json").read_text(encoding="utf-8"))["config"]
        assert (said["sites"], said["calibration_size"]) == ("output", 8)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "A transformer block with norms of SubLN at: output" in html
    assert "What goes into output.dense" in html


def test_pretrain_inside_another_program(backbone, examples, tmp_path):
    config = PretrainConfig(
        backbone=backbone,
        out=str(tmp_path / "run"),
        pairs=examples,
        steps=2,
        batch_size=4,
        calibration_texts=8,
    )
    _, names = load("pretrain").app.run(defs={"config": config, "run_now": True})
    assert [record["step"] for record in names["run"].records()] == [1, 2]
    assert (tmp_path / "run" / "neighbours.json").is_file()


def test_distill_inside_another_program_trains_its_teacher_and_evaluates(backbone, examples, tasks, tmp_path):
    config = StagesConfig(
        backbone=backbone,
        out=str(tmp_path / "run"),
        triplets=examples,
        hard_negatives=2,
        steps=2,
        teacher_steps=1,
        batch_size=4,
        relation_heads=2,
        calibration_texts=8,
        tasks=tasks,
        cap=None,
    )
    _, names = load("distill").app.run(defs={"config": config, "run_now": True})
    stages = [(record["stage"], record["step"]) for record in records_of(config)]
    assert stages == [("teacher", 1), ("distill", 1), ("distill", 2)]
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert set(results["tasks"]) == {"ret_letters", "sts_letters"}
    columns = {"teacher", "untrained", "float16", "int8", "int4", "int2", "binary"}
    assert all(set(scores) == columns for scores in results["tasks"].values())
    assert names["results"]["mean"] == results["mean"]


def test_training_notebooks_as_pages(backbone, examples, tmp_path):
    """Both stages with arguments of their own, saved with their curves; what training took is given back."""
    common = ("--steps", "3", "--batch-size", "4", "--calibration-texts", "8", "--watch-every", "1")
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    settings = {
        "pretrain": ("--backbone", backbone, "--out", first, "--pairs", examples),
        "distill": (
            *("--backbone", backbone, "--teacher", backbone, "--out", second, "--triplets", examples),
            *("--relation-heads", "2", "--hard-negatives", "1", "--tasks="),
        ),
    }
    processes = {
        name: start(
            *("-m", "marimo", "export", "html", NOTEBOOKS / f"{name}.py", "-o", tmp_path / f"{name}.html"),
            *("--", *own, *common, "--run"),
        )
        for name, own in settings.items()
    }
    for name, process in processes.items():
        code, out, error = finish(process)
        assert code == 0, out + error
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "step 3 of 3" in page
        assert "Training losses" in page
        assert "share never seen to flip" in page  # the layers
        assert "3 of 3" in page  # the table of runs
    assert [r["step"] for r in Run.open(first).records()] == [1, 2, 3]
    assert Run.open(second).config["relation_heads"] == 2


def test_nothing_runs_before_the_button_is_pressed(backbone, tmp_path):
    config = PretrainConfig(backbone=backbone, out=str(tmp_path / "run"))
    _, names = load("pretrain").app.run(defs={"config": config, "run_now": False})
    assert names["run"].records() == []
    assert not (tmp_path / "run").exists()


def test_script_trains_and_logs_its_progress(backbone, examples, tmp_path):
    arguments = (
        *("--backbone", backbone, "--out", str(tmp_path / "run"), "--pairs", examples),
        *("--steps", "2", "--batch-size", "4", "--calibration-texts", "8"),
    )
    code, out, error = finish(start(NOTEBOOKS / "pretrain.py", *arguments))
    assert code == 0, error
    assert "pretrain 2/2" in out + error
    assert len((tmp_path / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_script_refuses_bad_settings_with_the_usage(started):
    code, _, error = finish(started["refused"])
    assert code == 2
    assert "usage:" in error
    assert "steps must be at least 1" in error
