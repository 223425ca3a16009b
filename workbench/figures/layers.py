"""How every ternary layer fares while it is trained: one row a layer, one column a report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from workbench.figures.theme import BLUES, empty_figure, styled

Report = Mapping[str, Any]
TALLEST, ROW = 900, 15  # pixels


class _Measure(NamedTuple):
    title: str
    meaning: str
    percent: bool = True
    log: bool = False


LAYER_MEASURES = {
    "dead_share": _Measure("Dead weights", "share never seen to flip since the last report"),
    "flip_share": _Measure("Flipping weights", "share that a step changes", log=True),
    "zero_share": _Measure("Zero weights", "share that is zero"),
    "crest": _Measure("Outlying activations", "max|x| / rms(x) of a token, before rounding", percent=False),
    "largest": _Measure("Largest activation", "max|x| before rounding", percent=False, log=True),
}


def layer_heatmap(reports: Sequence[Report], measure: str = "dead_share") -> go.Figure:
    """One of `LAYER_MEASURES` for every layer (first layer on top) over the steps of a run.

    `reports` are what `Run.layers` returns.
    """
    title, meaning, percent, log = LAYER_MEASURES[measure]
    if not reports:
        return empty_figure(title, "no report on the layers yet; they come every watch_every steps")
    names = list(reports[0]["layers"])
    labels = layer_labels(names)
    values_LS = np.array([[report["layers"][name][measure] for report in reports] for name in names])
    drawn_LS = values_LS
    colourbar: dict[str, Any] = {"tickformat": ".1~%" if percent else "~g", "thickness": 12, "len": 0.9}
    if log:
        drawn_LS = np.log10(np.where(values_LS > 0, values_LS, np.nan))
        colourbar |= _log_scale(drawn_LS, percent)
    number = "%{customdata[0]:.2~%}" if percent else "%{customdata[0]:.3~g}"
    since_LS = np.broadcast_to([report["since"] for report in reports], values_LS.shape)
    figure = go.Figure(
        go.Heatmap(
            x=[str(report["step"]) for report in reports],
            y=labels,
            z=drawn_LS,
            customdata=np.stack([values_LS, since_LS], axis=-1),
            colorscale=["#f4f8fb", *BLUES],
            colorbar=colourbar,
            hovertemplate=f"%{{y}}<br>steps %{{customdata[1]}} to %{{x}}<br>{title.lower()}: {number}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="optimiser step", type="category", nticks=12, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", tickfont_size=11)
    figure.update_layout(margin={"l": 40, "r": 8})
    return styled(figure, title, meaning, height=min(TALLEST, 170 + ROW * len(names)))


def layer_labels(names: Sequence[str]) -> list[str]:
    """Short names: the block's number, and as much of the rest as tells its linears apart."""
    parts = [name.split(".") for name in names]
    numbers = [max((i for i, part in enumerate(p) if part.isdigit()), default=-1) for p in parts]
    rests = [".".join(p[number + 1 :]) for p, number in zip(parts, numbers, strict=True)]
    ends = Counter(rest.rpartition(".")[2] for rest in dict.fromkeys(rests))
    short = [end if ends[end] == 1 else rest for rest in rests for end in (rest.rpartition(".")[2],)]
    return [
        f"{p[number]} {label}" if number >= 0 else label
        for p, number, label in zip(parts, numbers, short, strict=True)
    ]


def _log_scale(exponents: np.ndarray, percent: bool) -> dict[str, Any]:
    """Ticks of a colour bar at whole powers of ten and halves between, with their values."""
    if np.isnan(exponents).all():
        return {}
    low, high = float(np.nanmin(exponents)), float(np.nanmax(exponents))
    ticks = [np.log10(step) + power for power in range(int(low) - 1, int(high) + 2) for step in (1, 3)]
    shown = [tick for tick in ticks if low <= tick <= high] or [(low + high) / 2]
    texts = [f"{100 * 10**tick:.2g} %" if percent else f"{10**tick:.2g}" for tick in shown]
    return {"tickvals": shown, "ticktext": texts}
