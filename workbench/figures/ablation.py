"""The ablation table, and how far each variant falls behind the whole recipe."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from workbench.figures.html import Html, Row, table
from workbench.figures.theme import BLUE, VERMILION, empty_figure, styled

Results = Mapping[str, Any]
WHOLE = "full"


def ablation_table(results: Results) -> Html:
    """Mean scores (x 100) of every variant by output precision, and the mean of each task type in floating point."""
    variants: Mapping[str, Any] = results["variants"]
    precisions = list(dict.fromkeys(p for row in variants.values() for p in row["mean"] if p != "teacher"))
    types = list(dict.fromkeys(kind for row in variants.values() for kind in row["mean_by_type"]))
    rows = []
    if variants and "teacher" in next(iter(variants.values()))["mean"]:
        teacher = next(iter(variants.values()))
        by_type = [_points(teacher["mean_by_type"][kind]["teacher"]) for kind in types]
        rows.append(
            Row(
                ["teacher", _points(teacher["mean"]["teacher"]), *[""] * (len(precisions) - 1), *by_type],
                "group",
            )
        )
    for name, row in variants.items():
        by_type = [_points(row["mean_by_type"][kind][precisions[0]]) for kind in types]
        cells = [row["about"], *(_points(row["mean"][p]) for p in precisions), *by_type]
        rows.append(Row(cells, "total" if name == WHOLE else ""))
    note = (
        f"Mean over task types, by precision of the stored vectors; then the types at {precisions[0]}."
        if precisions
        else ""
    )
    return table(["variant", *precisions, *types], rows, note=note)


def ablation_bars(results: Results, precision: str = "float16") -> go.Figure:
    """The mean score of every variant less that of the whole recipe, in points."""
    title = "What each ingredient is worth"
    variants: Mapping[str, Any] = results["variants"]
    if WHOLE not in variants or len(variants) < 2:
        return empty_figure(title, "the whole recipe and one other variant are needed")
    whole = variants[WHOLE]["mean"][precision]
    others = {
        row["about"]: 100 * (row["mean"][precision] - whole)
        for name, row in variants.items()
        if name != WHOLE
    }
    names = sorted(others, key=lambda about: -others[about])
    figure = go.Figure()
    figure.add_bar(
        x=[others[name] for name in names],
        y=names,
        orientation="h",
        marker={"color": [VERMILION if others[name] < 0 else BLUE for name in names]},
        hovertemplate="%{y}<br>%{x:+.2f} points<extra></extra>",
        text=[f"{others[name]:+.1f}" for name in names],
        textposition="auto",
    )
    figure.update_xaxes(title_text=f"points of the mean score at {precision}, against the whole recipe")
    subtitle = f"whole recipe: {100 * whole:.1f}"
    return styled(figure, title, subtitle, height=140 + 34 * len(names))


def _points(score: float) -> str:
    return f"{100 * score:.1f}"
