"""Several training runs beside each other: their curves in one plot, the settings in which they differ in one table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.html import Html, Row, table
from workbench.figures.theme import PALETTE, empty_figure, styled
from workbench.figures.training import Record, evenly_spaced, log_ticks, moving_mean

ABOUT_THE_FOLDER = ("out", "resume", "overwrite")
DASHES = ("solid", "dash", "dot")


class RunData(NamedTuple):
    """What is known of a run: its stage and settings, a record a step, reports on its layers, and what evaluation found."""

    recipe: str
    config: Mapping[str, Any]
    records: Sequence[Record]
    layers: Sequence[Mapping[str, Any]] = ()
    results: Mapping[str, Any] | None = None


class _Panel(NamedTuple):
    key: str
    axis: str
    log: bool = True
    percent: bool = False


PANELS = (
    _Panel("loss", "loss"),
    _Panel("contrastive", "contrastive loss"),
    _Panel("regression", "regression loss"),
    _Panel("dev_retention", "dev retention", log=False, percent=True),
    _Panel("dev_ndcg", "dev nDCG@10", log=False),
    _Panel("flip_share", "changed weights"),
)


def compare_curves(runs: Mapping[str, RunData], over: Literal["step", "hours"] = "step") -> go.Figure:
    """Losses, scores on held-out text and changing weights of `runs`, by name: one colour a run.

    Losses are moving means. Over hours, runs of unlike batches or machines can be compared by what they cost. Losses of
    runs whose weights for the terms differ are not on one scale; the scores on held-out text are.
    """
    title = "Runs compared"
    shown = [panel for panel in PANELS if any(_points(run, panel, over)[0] for run in runs.values())]
    if not shown:
        return empty_figure(title, "no records yet")
    height = 210 * len(shown) + 150 + 20 * len(runs)
    figure = make_subplots(rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    named: set[str] = set()
    for row, panel in enumerate(shown, start=1):
        drawn: list[float] = []
        for number, (name, run) in enumerate(runs.items()):
            x, y = _points(run, panel, over)
            if not x:
                continue
            drawn += y
            figure.add_scatter(
                x=x,
                y=y,
                name=name,
                mode="lines" if len(x) > 1 else "markers",
                line={
                    "color": PALETTE[number % len(PALETTE)],
                    "dash": DASHES[number // len(PALETTE) % len(DASHES)],
                    "width": 2,
                },
                legendgroup=name,
                showlegend=name not in named,
                hovertemplate=f"{name}<br>{_at(over)}<br>{panel.axis} {_number(panel)}<extra></extra>",
                row=row,
                col=1,
            )
            named.add(name)
        figure.update_yaxes(title_text=panel.axis, row=row)
        if panel.log:
            ticks = _apart(log_ticks(min(drawn), max(drawn)), min(drawn), max(drawn))
            figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{t:.4g}" for t in ticks], row=row)
        elif panel.percent:
            figure.update_yaxes(tickformat=".0%", row=row)
    figure.update_xaxes(title_text="optimiser step" if over == "step" else "hours", row=len(shown))
    styled(figure, title, "losses: moving means over a tenth of the steps", height)
    figure.update_layout(legend={"orientation": "v", "y": -70 / (height - 140)}, margin_b=80 + 20 * len(runs))
    return figure


def comparison_table(runs: Mapping[str, RunData]) -> Html:
    """One column a run: how far it came and how well it did, then every setting in which two of them differ."""
    rows = [Row(["Outcome", *[""] * len(runs)], "group")]
    outcomes = [_outcome(run) for run in runs.values()]
    for label in dict.fromkeys(label for outcome in outcomes for label in outcome):
        rows.append(Row([label, *(outcome.get(label, "-") for outcome in outcomes)]))
    settings = [{"stage": run.recipe, **run.config} for run in runs.values()]
    names = dict.fromkeys(name for own in settings for name in own if name not in ABOUT_THE_FOLDER)
    differing = [name for name in names if len({_shown(own, name) for own in settings}) > 1]
    rows.append(Row(["Settings that differ", *[""] * len(runs)], "group"))
    rows += [Row([name, *(_shown(own, name) for own in settings)]) for name in differing]
    return table(["", *runs], rows)


def _outcome(run: RunData) -> dict[str, str]:
    if not run.records:
        return {"steps": "0"}
    last = run.records[-1]
    tenth = run.records[-max(1, len(run.records) // 10) :]
    seconds = sum(float(record["seconds"]) for record in run.records)
    found = {
        "steps": f"{last['step']:,} of {last['steps']:,}",
        "time in steps": f"{seconds / 3600:.2f} h",
        "tokens/s": f"{np.median([float(record['tokens_per_second']) for record in run.records]):,.0f}",
        "loss, last tenth": f"{np.mean([float(record['loss']) for record in tenth]):.4g}",
    }
    for key, label, number in (
        ("dev_ndcg", "best dev nDCG@10", "{:.4f}"),
        ("dev_retention", "best dev retention", "{:.1%}"),
    ):
        scores = [float(record[key]) for record in run.records if key in record]
        if scores:
            found[label] = number.format(max(scores))
    for precision, score in (run.results or {}).get("mean", {}).items():
        found[f"mean score, {precision}"] = f"{100 * score:.2f}"
    return found


def _points(run: RunData, panel: _Panel, over: str) -> tuple[list[float], list[float]]:
    """x and y of the records that have a finite value, above 0 where the axis is logarithmic."""
    hours = np.cumsum([float(record["seconds"]) for record in run.records]) / 3600
    places, values = [], []
    for record, hour in zip(run.records, hours, strict=True):
        value = record.get(panel.key)
        if isinstance(value, int | float) and math.isfinite(value) and (value > 0 or not panel.log):
            places.append(float(record["step"]) if over == "step" else float(hour))
            values.append(float(value))
    if panel.log and values:
        values = moving_mean(np.array(values)).tolist()
    kept = evenly_spaced(len(values))
    return [places[i] for i in kept], [values[i] for i in kept]


def _apart(ticks: Sequence[float], low: float, high: float) -> list[float]:
    """Those of the rising `ticks` of a logarithmic axis from `low` to `high` whose labels have room."""
    room = math.log10(high / low) / 6
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.log10(tick / kept[-1]) > room:
            kept.append(tick)
    return kept


def _shown(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "-"
    value = settings[name]
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _at(over: str) -> str:
    return "step %{x:,}" if over == "step" else "%{x:.2f} h"


def _number(panel: _Panel) -> str:
    return "%{y:.1%}" if panel.percent else "%{y:.4~g}"
