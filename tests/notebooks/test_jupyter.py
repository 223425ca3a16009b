"""The Jupyter notebooks run from top to bottom in a kernel, and their widgets do what they say."""

import json
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from workbench.explorer.corpus import ExplorerConfig
from workbench.recipes.convert import ConvertConfig
from workbench.recipes.stages import StagesConfig

FOLDER = Path(__file__).parents[2] / "notebooks" / "jupyter"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks, since most of their time goes into imports."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=FOLDER)  # as Jupyter does
    yield manager
    manager.shutdown_kernel(now=True)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(kernel, name, config, *, before=(), after=()):
    """The figures that the notebook's cells draw with `config`, and those that its output widgets show in the end.

    The cells `before` run ahead of the one that reads the form, the cells `after` at the end.
    """
    notebook = read(name)
    cells = notebook.cells
    parameters = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = f"config = {type(config).__name__}(**{asdict(config)!r})"
    reader = next(index for index, cell in enumerate(cells) if "form.config" in cell.source)
    code = nbformat.v4.new_code_cell
    notebook.cells = [
        code("%reset -f"),
        *cells[:reader],
        *map(code, before),
        *cells[reader:],
        *map(code, after),
    ]
    client = NotebookClient(notebook, timeout=120, startup_timeout=120, km=kernel)
    client.execute()
    client.kc.stop_channels()
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    shown = [state["state"]["outputs"] for state in states if state["model_name"] == "OutputModel"]
    return figures(cell.get("outputs", ()) for cell in notebook.cells), figures(shown)


def figures(outputs):
    """Titles and traces of the plotly figures among some lists of outputs."""
    kind = "application/vnd.plotly.v1+json"
    drawn = [output["data"][kind] for some in outputs for output in some if kind in output.get("data", {})]
    return {figure["layout"]["title"]["text"]: figure["data"] for figure in drawn}


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_valid_thin_and_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert sum(len(cell.source.splitlines()) for cell in notebook.cells) < 250


def test_convert(kernel, backbone, examples, tmp_path):
    config = ConvertConfig(
        backbone=backbone,
        out=str(tmp_path / "run"),
        calibration_texts=examples,
        calibration_size=8,
        held_out_size=4,
    )
    move = "draw_weights.widget.children[0].value = 'output.dense'"
    draw = "draw_weights('output.dense', 0)"
    drawn, shown = execute(kernel, "convert", config, after=[move, draw])
    assert (tmp_path / "run" / "latent" / "config.json").is_file()
    title = "Latent weights and their ternary values"
    assert shown[title] == drawn[title]
    assert len(shown) == 2  # the block is no figure, but a drawing


def test_storage_explorer(kernel, backbone, examples, tmp_path):
    corpus = tmp_path / "texts.jsonl"
    texts = [f"text {number} of {word}" for number in range(10) for word in ("cats", "dogs")]
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    config = ExplorerConfig(model=backbone, corpus=str(corpus), documents=14, queries=3, max_length=16)
    move = "draw_recall.widget.children[1].value = 'int8'"
    draw = "draw_recall(True, 'int8', 4, 90)"
    drawn, shown = execute(kernel, "storage_explorer", config, after=[move, draw])
    title = "Share of 10 neighbours found"
    assert shown[title] == drawn[title]
    assert set(shown) == {title, "What is kept, at how many bytes", "Money per month"}


def test_distill_trains_what_is_entered(kernel, backbone, examples, tasks, tmp_path):
    config = StagesConfig(
        backbone=backbone,
        out=str(tmp_path / "run"),
        triplets=examples,
        hard_negatives=2,
        steps=5,
        teacher_steps=1,
        batch_size=4,
        relation_heads=2,
        calibration_texts=8,
        tasks=tasks,
        cap=None,
    )
    refuse = "form.inputs['steps'].value = '0'; assert 'at least 1' in form.complaint.value"
    accept = "form.inputs['steps'].value = '2'; assert not form.complaint.value"
    move = "draw_results.widget.children[0].value = 'kept at each precision'"
    drawn, shown = execute(kernel, "distill", config, before=[refuse, accept], after=[move])
    records = (tmp_path / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in records] == [1, 2]
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert set(results["tasks"]) == {"ret_letters", "sts_letters"}
    assert set(drawn) == {"Training losses", "Training health"}
    assert set(shown) == {"What each precision keeps", "Dead weights"}
