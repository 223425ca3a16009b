"""What an app that trains shows around its plots: an estimate, buttons to start, pause and resume, where the run stands."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import marimo as mo

from workbench.compare import read_run, trained_runs
from workbench.estimate import Notebook, estimate_elsewhere
from workbench.figures.comparison import compare_curves, comparison_table
from workbench.figures.html import Html, Row, table
from workbench.figures.interactive import duration, errors_in_words, follow, plot, training_page
from workbench.figures.layers import LAYER_MEASURES, layer_heatmap
from workbench.figures.training import STAGE_TITLES, training_health
from workbench.job import Job, Standing, State, records_of
from workbench.recipes.estimate import Estimate
from workbench.recipes.settings import Record, TrainingConfig
from workbench.runs import Run

Config = TypeVar("Config", bound=TrainingConfig)

LOOK_EVERY = "3s"


def recipe_chooser(recipes: Mapping[str, Config], config: Config) -> Any:
    """A choice among the `recipes`, by name, and `config`, with the settings that the app was started with."""
    return mo.ui.dropdown({"as started": config, **recipes}, value="as started", label="Recipe")


def buttons(job: Job, config: TrainingConfig, tell: Callable[[State], None]) -> Any:
    """Buttons that start, resume and pause the training of `config`; only those that make sense now can be pressed.

    `tell` is given the state after each press. The cell has to keep what is returned in a variable.
    """
    standing = job.standing(config)
    begun = any(Path(folder).exists() for folder in config.folders)
    may_start = standing.state == "new" or (standing.state == "failed" and not begun) or config.overwrite
    may_resume = standing.state == "paused" or (standing.state == "failed" and begun)

    def button(label: str, kind: str, enabled: bool, act: Callable[[TrainingConfig], None]) -> Any:
        def press(_: object) -> None:
            try:
                act(config)
            except (ValueError, OSError, RuntimeError) as error:
                mo.status.toast(type(error).__name__, str(error), kind="danger")
            tell(job.standing(config).state)

        return mo.ui.button(label=label, kind=kind, disabled=not enabled, on_click=press)

    return mo.ui.array(
        [
            button("Start", "success", may_start and not standing.busy, job.start),
            button("Resume", "success", may_resume, job.resume),
            button("Pause", "warn", standing.state in ("working", "training"), job.pause),
        ]
    )


def pulse() -> Any:
    """What makes the cells that read it look again every few seconds, as long as it is in the page."""
    return mo.ui.refresh(options=["1s", LOOK_EVERY, "10s", "60s"], default_interval=LOOK_EVERY)


def control_row(pressed: Any, ticks: Any, standing: Standing) -> Any:
    """The buttons, and the pulse while training is under way: put there anew, since one in the page stays as it was."""
    row = pressed.hstack(justify="start")
    return mo.hstack([row, ticks], wrap=True) if standing.busy else row


def standing_line(config: TrainingConfig, standing: Standing) -> Any:
    """Where the training of `config` stands, in a sentence."""
    records = records_of(config)
    step = f"step {records[-1]['step']:,} of {records[-1]['steps']:,}" if records else "before the first step"
    folder = f"`{config.out}`"
    kind, line = {
        "new": ("neutral", f"Ready. The run will be in {folder}."),
        "working": ("info", f"At work: {escape(standing.message)}"),
        "training": ("info", f"Training in {folder}, {step}. It goes on when this tab is closed."),
        "pausing": ("warn", "Pausing: the step is finished, and a checkpoint written."),
        "paused": ("warn", f"Paused in {folder}, {step}. **Resume** goes on from the newest checkpoint."),
        "failed": ("danger", escape(standing.message)),
        "finished": (
            "success",
            f"Finished: {folder} holds a trained model. To train again, choose another folder, or tick `overwrite`.",
        ),
    }[standing.state]
    return mo.callout(mo.md(line), kind=kind)


def cost_page(notebook: Notebook, config: TrainingConfig, asked: bool) -> Any:
    """What the training of `config` would cost, measured in another process; until `asked`, what that means."""
    if not asked:
        return mo.md("Counts tokens in the first batches and times a few steps; nothing is kept.")
    with errors_in_words(), mo.status.spinner("Loading models and data, and trying a few steps"):
        return estimate_table(estimate_elsewhere(notebook, config), config.out)


def live_page(job: Job, config: TrainingConfig, told: State, tell: Callable[[State], None]) -> Any:
    """Where the training of `config` stands, and the curves so far; `tell` hears of a state that was not `told`."""
    standing, records = job.standing(config), records_of(config)
    if standing.state != told:
        tell(standing.state)
    line = standing_line(config, standing)
    return mo.vstack([line, curves_page(records)]) if records else line


def follow_curves(records: Iterable[Record]) -> None:
    """Train in this process, to the end of `records`; in a page with its curves so far."""
    follow(records, lambda so_far: mo.output.replace(curves_page(so_far)))


def curves_page(records: Sequence[Record]) -> Any:
    """How far training is, its losses, and whether it is healthy."""
    return mo.vstack([training_page(records), plot(training_health(records))])


def layer_chooser() -> Any:
    """What to show of the layers."""
    titles = {measure.title: key for key, measure in LAYER_MEASURES.items()}
    return mo.ui.dropdown(titles, value=next(iter(titles)))


def layer_page(run: Run, measure: str) -> Any:
    """That measure of every layer of `run`, as far as it has come."""
    return plot(layer_heatmap(run.layers(), measure))


def run_chooser(root: str, own: Run) -> Any:
    """Which of the runs below the folder `root` to compare; `own` is chosen from the start."""
    found = trained_runs(root)
    return mo.ui.multiselect(found, value=[name for name in found if name == str(own.path)], full_width=True)


def comparison_page(folders: Sequence[str]) -> Any:
    """The curves of the runs in `folders`, and the settings in which they differ."""
    if not folders:
        return mo.md("Choose two or more.")
    runs = {folder: read_run(folder) for folder in folders}
    return mo.vstack([plot(compare_curves(runs)), comparison_table(runs)])


def usage(run: Run) -> Any:
    """How the trained model of `run` is used."""
    return mo.md(f"""
```python
from bitembed_core import BitEmbedder
embedder = BitEmbedder.from_pretrained("{run.model}")
vectors = embedder.encode(["some text"], precision="int8")
```
""")


def estimate_table(estimates: Sequence[Estimate], out: str) -> Html:
    """What each stage takes, and what this machine has of it."""
    columns = [_estimated(one) for one in estimates]
    rows = [Row([label, *(column[label] for column in columns)]) for label in columns[0]]
    total = sum(one.seconds for one in estimates)
    if len(estimates) > 1:
        rows.append(Row(["all stages", duration(total), *[""] * (len(estimates) - 1)], "total"))
    folder = next(path for path in (Path(out).absolute(), *Path(out).absolute().parents) if path.exists())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    notes = [
        f"Measured just now, for one process: {_tried(estimates)}. This disk has {_size(shutil.disk_usage(folder).free)} "
        f"left, this machine {_size(memory)} of memory.",
        "Loading, mining of hard negatives, and evaluation come on top.",
    ]
    return table(
        ["", *(STAGE_TITLES.get(one.stage, one.stage) for one in estimates)], rows, note=" ".join(notes)
    )


def _estimated(one: Estimate) -> dict[str, str]:
    batches = f"{one.counted_batches} batch" + ("es" if one.counted_batches > 1 else "")
    return {
        "optimiser steps": f"{one.steps:,}",
        "tokens in a step": f"{one.tokens_per_step:,.0f} (mean of {batches})",
        "tokens in all": f"{one.tokens / 1e6:,.2f} M",
        "time of a step": f"{one.seconds_per_step:.2g} s",
        "scores on held-out text": f"{one.measurements} of {one.seconds_per_measurement:.2g} s"
        if one.measurements
        else "-",
        "time": duration(one.seconds),
        "memory": _size(one.memory_bytes),
        "disk": f"{_size(one.disk_bytes)} ({one.checkpoints} checkpoints of {_size(one.checkpoint_bytes)})",
    }


def _tried(estimates: Sequence[Estimate]) -> str:
    part = [one for one in estimates if one.tried_examples < one.batch_size]
    if not part:
        return "three whole steps"
    shares = " and ".join(f"{one.tried_examples} of {one.batch_size:,} examples" for one in part)
    return f"a step with {shares}, since a whole one takes long (it needs more memory, unless `chunk_tokens` is set)"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
