"""The notebook of attention relations, moved as a person moves it, as a script and as a saved page."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from workbench.relations import RelationsConfig

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "attention_relations.py"


def run(config, **replaced):
    """The names that the notebook defines; `replaced` stand in for controls that a person has moved."""
    spec = importlib.util.spec_from_file_location("relations_notebook", NOTEBOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app.run(defs={"config": config, "run_now": True, **replaced})[1]


def command(*arguments):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_inside_another_program(backbone, tmp_path):
    config = RelationsConfig(teacher=backbone, texts="the cat", heads=2, out=str(tmp_path / "out"))
    names = run(config)
    assert names["place"] == ("Q", 0, 0)
    assert names["shown"].maps["before"]["V"].shape == (2, 2, 9, 9)
    saved = json.loads((tmp_path / "out" / "relations.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(saved["divergence"]["before"]["mean"], names["mean"].by_layer("before"))


def test_script_writes_the_report_and_logs_a_table(backbone, tmp_path):
    out = tmp_path / "out"
    printed = command(
        NOTEBOOK, "--teacher", backbone, "--texts", "the cat sat", "--temperature", "none", "--out", out
    )
    assert "before mean" in printed
    assert "the paper would distil layer 0" in printed
    assert json.loads((out / "relations.json").read_text(encoding="utf-8"))["config"]["temperature"] is None
    assert (out / "report.html").is_file()


def test_saved_page_honours_its_arguments(backbone, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page.html"
    arguments = ["--teacher", backbone, "--texts", "zebra", "--out", out, "--run"]
    command("-m", "marimo", "export", "html", NOTEBOOK, "-o", page, "--", *arguments)
    assert "Student before distillation" in page.read_text(encoding="utf-8")
    saved = json.loads((out / "relations.json").read_text(encoding="utf-8"))
    assert saved["config"]["texts"] == "zebra"
