"""The storage explorer inside another program, as a script and as a saved page; two sessions share nothing."""

import json

import pytest

from workbench.explorer.corpus import ExplorerConfig

from .test_notebooks_run import NOTEBOOKS, finish, load, start


@pytest.fixture
def settings(backbone, tmp_path):
    """Fields of a tiny exploration."""
    corpus = tmp_path / "texts.jsonl"
    lines = [
        json.dumps({"text": f"text {number} on {word}"}) for number in range(9) for word in ("cats", "dogs")
    ]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    return {
        "model": backbone,
        "corpus": str(corpus),
        "documents": 14,
        "queries": 3,
        "out": str(tmp_path / "out"),
    }


def arguments(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


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
