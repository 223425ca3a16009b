"""The deployment notebook inside another program, as a script and as a saved page; an app says errors in words."""

import json

import pytest

from workbench.deploy import DeployConfig

from .test_notebooks_run import NOTEBOOKS, finish, load, start


@pytest.fixture
def settings(backbone, tmp_path):
    """Fields of a tiny deployment."""
    texts = tmp_path / "texts.jsonl"
    lines = [json.dumps({"id": f"t{n}", "text": f"text {n} on cats"}) for n in range(9)]
    texts.write_text("\n".join(lines), encoding="utf-8")
    return {
        "model": backbone,
        "input": str(texts),
        "out": str(tmp_path / "out"),
        "precision": "int2-fitted",
        "query": "text 4 on cats",
        "repeats": 1,
        "batch_size": 2,
    }


def arguments(settings):
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def test_inside_another_program_every_step_is_done(settings, tmp_path):
    config = DeployConfig(**settings, lengths=(8, 16), engine="qdrant")
    _, names = load("deploy").app.run(defs={"config": config, "run_now": True})
    assert names["measured"].kernel == "float"
    assert len(names["index"]) == 9
    assert names["answer"].hits[0].id == "t4"
    assert names["exported"]["layout"] == "release"
    assert names["engine_export"].rows == 9
    assert (tmp_path / "out" / "deploy.json").is_file()


def test_nothing_is_loaded_before_the_button_is_pressed(settings, tmp_path):
    config = DeployConfig(**settings | {"model": "no such model"})
    _, names = load("deploy").app.run(defs={"config": config, "run_now": False})
    assert "embedder" not in names
    assert not (tmp_path / "out").exists()


def test_script_and_saved_page_honour_their_arguments(settings, tmp_path):
    page = tmp_path / "page.html"
    notebook = NOTEBOOKS / "deploy.py"
    saved = {**settings, "out": str(tmp_path / "saved"), "precision": "binary", "lengths": "8"}
    running = [
        start(notebook, *arguments(settings), "--lengths=8"),
        start("-m", "marimo", "export", "html", notebook, "-o", page, "--", "--run", *arguments(saved)),
        start(notebook, *arguments(settings | {"precision": "int3"})),
    ]
    (code, out, error), (page_code, page_out, page_error), (refused, _, usage) = map(finish, running)
    assert code == 0, out + error
    assert page_code == 0, page_out + page_error
    for folder, precision in (("out", "int2-fitted"), ("saved", "binary")):
        report = json.loads((tmp_path / folder / "deploy.json").read_text(encoding="utf-8"))
        assert report["index"]["precision"] == precision
        assert (tmp_path / folder / f"texts-{precision}.safetensors").is_file()
    assert " tokens a text: " in error
    assert "9 texts as int2-fitted" in error
    html = page.read_text(encoding="utf-8")
    assert "ms to encode the query" in html
    assert "texts-binary.safetensors" in html
    assert (refused, "no precision 'int3'" in usage) == (2, True)
