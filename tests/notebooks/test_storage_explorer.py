"""The storage explorer inside another program, as a script and as a saved page; two sessions share nothing."""

import json
import shutil
from pathlib import Path

import pytest

from bitembed_core.files import write_json
from workbench.explorer.corpus import ExplorerConfig
from workbench.explorer.formats import Setting
from workbench.explorer.page import export_page, page_data

from ..test_house import imports
from .test_notebooks_run import NOTEBOOKS, finish, load, load_file, start

RESULTS = NOTEBOOKS.parent / "kernels" / "benchmarks" / "results" / "evaluation_minilm_full.json"


@pytest.fixture
def settings(backbone, tmp_path):
    """Fields of a tiny exploration."""
    corpus = tmp_path / "texts.jsonl"
    lines = [
        json.dumps({"text": f"text {number} on {word}"}) for number in range(9) for word in ("cats", "dogs")
    ]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    return {
        "results": (str(RESULTS),),  # whatever lies in runs/
        "model": backbone,
        "corpus": str(corpus),
        "documents": 14,
        "queries": 3,
        "out": str(tmp_path / "out"),
    }


def arguments(settings):
    given = {name: ",".join(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    return [f"--{name}={value}" for name, value in given.items()]


def test_inside_another_program_controls_change_what_is_shown(settings):
    app = load("storage_explorer").app
    _, first = app.run(defs={"config": ExplorerConfig(**settings), "run_now": True})
    assert first["live"].precisions
    assert first["like"].rescore is None
    assert first["plans"][0].precision == "float32"
    assert {row.model for row in first["scores"]} == {"minilm-full"}
    _, second = app.run(defs={"config": ExplorerConfig(**settings | {"documents": 6}), "run_now": True})
    assert len(first["live"].corpus.texts) == 14
    assert len(second["live"].corpus.texts) == 6


def test_nothing_is_encoded_before_the_button_is_pressed(settings):
    config = ExplorerConfig(**settings | {"model": "no such model"})
    _, names = load("storage_explorer").app.run(defs={"config": config, "run_now": False})
    assert "live" not in names
    assert names["plans"]
    assert names["scores"]


def test_script_and_saved_page_honour_their_arguments(settings, tmp_path):
    page = tmp_path / "page.html"
    notebook = NOTEBOOKS / "storage_explorer.py"
    saved = {**settings, "out": str(tmp_path / "exported"), "documents": 10}
    running = [
        start(notebook, *arguments(settings)),
        start("-m", "marimo", "export", "html", notebook, "-o", page, "--", "--run", *arguments(saved)),
    ]
    for process in running:
        code, out, error = finish(process)
        assert code == 0, out + error
    for folder, documents in (("out", 14), ("exported", 10)):
        numbers = json.loads((tmp_path / folder / "explorer.json").read_text(encoding="utf-8"))
        assert numbers["corpus"]["texts"] == documents
        assert (tmp_path / folder / "report.html").is_file()
    assert "recall@10" in page.read_text(encoding="utf-8")


def test_page_of_the_browser_shows_what_was_computed_beforehand(settings, tmp_path):
    """It has no torch there: every figure must come with the data, and nothing else be imported."""
    config = ExplorerConfig(**settings)
    _, explored = load("storage_explorer").app.run(defs={"config": config, "run_now": True})
    exploration = json.loads((Path(config.out) / "explorer.json").read_text(encoding="utf-8"))
    data = page_data(exploration)
    write_json(tmp_path / "public" / "explorer.json", data)
    notebook = Path(shutil.copy(NOTEBOOKS / "storage_explorer_page.py", tmp_path))
    assert len(notebook.read_text(encoding="utf-8").splitlines()) < 250
    imported = imports(notebook) - {"json", "urllib"}
    assert imported == {"marimo", "plotly"}
    _, names = load_file(notebook).app.run()
    (costs,) = [row for row in names["costs"] if row["format"] == "binary"]
    assert costs["money_per_month"] == pytest.approx((4 + 4 + 16) * 1e8 * (3 + 0.1) / 1e9)  # 32 dimensions
    shown = data["recall"]["symmetric"]["int8"]["8"]["figure"]["data"]
    live = explored["live"]
    for trace in shown:
        for (name, _), percent in zip(trace.get("customdata", ()), trace["y"], strict=False):
            expected = live.formats.recall(Setting(name, False, "int8", 8)).recall
            assert percent == pytest.approx(100 * expected)


def test_what_is_no_exploration_makes_no_page(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"model": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="no exploration, corpus"):
        export_page(path, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.skipif(shutil.which("uv") is None, reason="marimo exports to WebAssembly with the help of uv")
def test_page_is_exported_whole_with_its_data(settings, tmp_path):
    load("storage_explorer").app.run(defs={"config": ExplorerConfig(**settings), "run_now": True})
    export_page(Path(settings["out"]) / "explorer.json", tmp_path / "site")
    assert json.loads((tmp_path / "site" / "public" / "explorer.json").read_text(encoding="utf-8"))["plans"]
    assert "marimo" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
