"""What a training run looked like: losses, learning rate, and the signs by which trouble is seen early."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bitembed_core.storage.schemes import FITTED
from workbench.figures.theme import (
    BLUE,
    BLUES,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    empty_figure,
    styled,
)

Record = Mapping[str, Any]

STAGE_TITLES = {
    "teacher": "Stage 0: teacher",
    "pretrain": "Stage 1: pre-training",
    "distill": "Stage 2: distillation",
}
GAUSSIAN_ZERO_SHARE = math.erf(0.5 / math.sqrt(math.pi))  # P(|w| < mean|w| / 2) for normally distributed w


class _Line(NamedTuple):
    key: str
    label: str
    colour: str


class _Panel(NamedTuple):
    """One row of small plots: which record entries, on which axis."""

    lines: tuple[_Line, ...]
    axis: str
    log: bool = False
    percent: bool = False
    smooth: bool = True
    reference: tuple[float, str] | None = None
    height: float = 1.0


LOSSES = _Panel(
    (
        _Line("loss", "total", INK),
        _Line("contrastive", "contrastive", BLUE),
        _Line("similarity", "score distillation", VERMILION),
        _Line("relations", "relation distillation", GREEN),
        _Line("regression", "embedding regression", PURPLE),
        _Line("spread_out", "spread-out", ORANGE),
        _Line("float_queries", "float queries, rounded candidates", SKY),
    ),
    axis="weighted loss",
    log=True,
    height=2.4,
)
BY_PRECISION = _Panel(
    tuple(
        _Line(f"contrastive_{bits}bit", f"{bits}-bit vectors", colour)
        for bits, colour in zip((1, 2, 4, 8, 16), BLUES, strict=True)
    )
    + tuple(
        _Line(f"contrastive_{name}", f"{name} vectors", colour)
        for name, colour in zip(FITTED, (GREEN, PURPLE, ORANGE, VERMILION), strict=True)
    ),
    axis="contrastive loss",
    log=True,
    height=1.4,
)
LEARNING_RATE = _Panel((_Line("lr", "learning rate", MUTED),), axis="learning rate", smooth=False)
ZERO_SHARE = _Panel(
    (_Line("zero_share", "weights that are zero", BLUE),),
    axis="zero weights",
    percent=True,
    smooth=False,
    reference=(GAUSSIAN_ZERO_SHARE, "Gaussian weights: 31 %"),
)
FLIP_SHARE = _Panel(
    (_Line("flip_share", "weights that a step changes", BLUE),), axis="changed weights", log=True
)
DEV = _Panel(
    (_Line("dev_retention", "held-out retrieval, share of the teacher", GREEN),),
    axis="dev retention",
    percent=True,
    smooth=False,
)
GRADIENT = _Panel(
    (_Line("grad_norm", "gradient norm before clipping", ORANGE),), axis="gradient norm", log=True
)
SHARES = _Panel(
    tuple(
        _Line(f"share_{line.key}", f"{line.label}, share of the loss", line.colour)
        for line in LOSSES.lines
        if line.key != "loss"
    ),
    axis="share of the loss",
    percent=True,
    height=1.4,
)
RATIO = _Panel(
    (_Line("relation_ratio", "relation loss / contrastive loss", GREEN),),
    axis="relation / contrastive",
    log=True,
    reference=(1.0, "equal weight"),
)


def loss_curves(records: Sequence[Record]) -> go.Figure:
    """The weighted losses by name and the learning rate, over optimiser steps, one column per stage.

    Where several output precisions are trained, the contrastive loss of each is shown too.

    `records` are the dicts that the recipes yield, in order, of one or several stages. With many of them a
    thin line shows every step and a thick one their moving mean; of a line with thousands of points some are left out.
    """
    title = "Training losses"
    subtitle = "each loss times its weight, so that the curves add up to the total"
    return _panels(records, (LOSSES, BY_PRECISION, LEARNING_RATE), title, subtitle, pixels=150)


def training_health(records: Sequence[Record]) -> go.Figure:
    """Retrieval on held-out text, zero and changing weights, gradient norm, the share that each weighted term has of the
    loss, and how heavily relations weigh against the contrastive one.

    A zero share that drifts to 0 or 1 means that the weights are losing their third value; weights that go on changing
    have not settled. A relation loss far above the contrastive one swamps it. Panels without data are left out.
    """
    title = "Training health"
    subtitle = "ternary weights, size of the gradient, balance of the losses"
    panels = (DEV, ZERO_SHARE, FLIP_SHARE, GRADIENT, SHARES, RATIO)
    return _panels([_with_shares(record) for record in records], panels, title, subtitle, pixels=170)


def _with_shares(record: Record) -> Record:
    terms = {line.key: record[line.key] for line in LOSSES.lines if line.key != "loss" and line.key in record}
    loss = record.get("loss")
    if len(terms) < 2 or not loss:
        return record
    return {**record, **{f"share_{name}": value / loss for name, value in terms.items()}}


def _panels(
    records: Sequence[Record], panels: Sequence[_Panel], title: str, subtitle: str, pixels: int
) -> go.Figure:
    by_stage: dict[str, list[Record]] = {}
    for record in records:
        by_stage.setdefault(str(record.get("stage", "")), []).append(record)
    shown = [panel for panel in panels if any(_points(records, line.key) for line in panel.lines)]
    if not shown:
        return empty_figure(title, "no records yet")
    heights = [panel.height for panel in shown]
    height = int(pixels * sum(heights)) + 160
    figure = make_subplots(
        rows=len(shown),
        cols=len(by_stage),
        shared_xaxes="columns",
        shared_yaxes="rows",
        row_heights=heights,
        vertical_spacing=0.06,
        horizontal_spacing=0.04,
        column_titles=[STAGE_TITLES.get(stage, stage) for stage in by_stage],
    )
    styled(figure, title, subtitle, height, above=20)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(visible=False)
    lowest: dict[int, int] = {}
    for row, panel in enumerate(shown, start=1):
        filled = _draw_row(figure, panel, list(by_stage.values()), row)
        lowest.update(dict.fromkeys(filled, row))
        _label_row(figure, panel, records, row, filled)
    for column, stage_records in enumerate(by_stage.values(), start=1):
        last = max(record.get("steps", record["step"]) for record in stage_records)
        figure.update_xaxes(range=[0, last], col=column)
    for column, row in lowest.items():
        figure.update_xaxes(title_text="optimiser step", showticklabels=True, row=row, col=column)
    return figure


def _draw_row(figure: go.Figure, panel: _Panel, stages: Sequence[Sequence[Record]], row: int) -> list[int]:
    """Draw one panel for every stage; returns the columns in which there was something to draw."""
    filled: set[int] = set()
    for line in panel.lines:
        first = len(panel.lines) > 1
        for column, records in enumerate(stages, start=1):
            points = _points(records, line.key)
            if points:
                traces = _traces(line, points, panel)
                traces[-1].showlegend = first
                figure.add_traces(traces, rows=row, cols=column)
                filled.add(column)
                first = False
    return sorted(filled)


def _traces(line: _Line, points: Sequence[tuple[int, float]], panel: _Panel) -> list[go.Scatter]:
    """The moving mean of the points, and under it every point where the two differ."""
    steps, values = [step for step, _ in points], np.array([value for _, value in points])
    mean = moving_mean(values) if panel.smooth else values
    kept = evenly_spaced(len(points))
    number = "%{y:.1%}" if panel.percent else "%{y:.3g}"
    smooth = go.Scatter(
        x=[steps[i] for i in kept],
        y=mean[kept],
        name=line.label,
        mode="lines" if len(points) > 1 else "markers",
        line={"color": line.colour, "width": 2},
        legendgroup=line.key,
        hovertemplate=f"step %{{x:,}}<br>{line.label} {number}<extra></extra>",
    )
    if mean is values:
        return [smooth]
    every = go.Scatter(
        x=smooth.x,
        y=values[kept],
        mode="lines",
        line={"color": line.colour, "width": 1},
        opacity=0.25,
        hoverinfo="skip",
        legendgroup=line.key,
        showlegend=False,
    )
    return [every, smooth]


def _label_row(
    figure: go.Figure, panel: _Panel, records: Sequence[Record], row: int, filled: Sequence[int]
) -> None:
    """Scale and label one row. Stages without data in it show no axes; the first with some is labelled."""
    values = [value for line in panel.lines for _, value in _points(records, line.key)]
    values += [panel.reference[0]] if panel.reference else []
    low, high = min(values), max(values)
    if panel.log:
        ticks = log_ticks(low, high)
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:.4g}" for tick in ticks], row=row)
        margin = max(0.06 * math.log10(high / low), 0.01)
        figure.update_yaxes(range=[math.log10(low) - margin, math.log10(high) + margin], row=row)
    else:
        number = ".0%" if panel.percent else "~g"
        figure.update_yaxes(range=[0, 1.1 * high], tickformat=number, nticks=5, row=row)
    figure.update_yaxes(visible=False, row=row)
    for column in filled:
        figure.update_xaxes(visible=True, row=row, col=column)
        figure.update_yaxes(visible=True, showticklabels=column == filled[0], row=row, col=column)
    figure.update_yaxes(title_text=panel.axis, row=row, col=filled[0])
    if panel.reference is None:
        return
    value, label = panel.reference
    for column in filled:
        figure.add_hline(y=value, line={"color": MUTED, "width": 1, "dash": "dot"}, row=row, col=column)
    figure.add_annotation(
        text=label,
        font={"size": 11, "color": MUTED},
        x=1,
        xref="x domain",
        y=math.log10(value) if panel.log else value,
        xanchor="right",
        yanchor="bottom" if value == low else "top",
        showarrow=False,
        row=row,
        col=filled[-1],
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis over the positive range: at least three of them in it, if it has a width.

    Powers of ten if these suffice, else 1, 2 and 5 a decade, else all nine, else evenly spaced numbers.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        if sum(low <= tick <= high for tick in ticks) >= 3:
            return ticks
    if low == high:
        return [float(f"{low:.3g}")]
    spacing = 10.0 ** math.floor(math.log10(high - low)) / 4
    return [spacing * number for number in range(math.floor(low / spacing), math.ceil(high / spacing) + 1)]


def moving_mean(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Centred moving mean over `share` of the points; the same array when that is less than three points.

    Near the ends the window is cut, not padded.
    """
    half = int(len(values) * share / 2)
    if half < 1:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def evenly_spaced(count: int, most: int = 1500) -> list[int]:
    """At most `most` of the places 0 to `count - 1`, the first and the last among them: what a plot is wide enough for."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _points(records: Sequence[Record], key: str) -> list[tuple[int, float]]:
    """(step, value) of the records whose value can be drawn: finite and, for the logarithmic axes, positive.

    A zero means that there is nothing to see either: no ternary weights, or a loss that is off.
    """
    found = [(record["step"], record.get(key)) for record in records]
    return [
        (step, value)
        for step, value in found
        if isinstance(value, int | float) and math.isfinite(value) and value > 0
    ]
