"""What each output precision costs in accuracy and saves in bytes.

`results` is the dictionary of results.json: main scores (0..1) by task and column under "tasks", their means
over types of tasks under "mean", those of each type under "mean_by_type". Columns are the precisions,
"teacher", and baselines such as "untrained" (ternary, not trained); only the precisions have to be there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bitembed_core.storage import StorageFormat
from bitembed_core.storage.precisions import by_width, is_precision
from workbench.figures.theme import (
    BLUE,
    INK,
    MUTED,
    PALETTE,
    TASK_TYPE_COLOURS,
    TASK_TYPE_LABELS,
    bytes_axis,
    empty_figure,
    styled,
)

Results = Mapping[str, Any]

COLUMN_LABELS: Mapping[str, str] = {"untrained": "before training"}


def precisions_of(results: Results) -> list[str]:
    """The output precisions that were evaluated, from most to fewest bytes."""
    return sorted(filter(is_precision, results["mean"]), key=by_width)


def references_of(results: Results) -> list[str]:
    """The columns that are other models: the teacher first, then the baselines."""
    others = [name for name in results["mean"] if not is_precision(name)]
    return sorted(others, key=lambda name: name != "teacher")


def retention_by_precision(results: Results) -> go.Figure:
    """Share of the teacher's score, and of the model's own float16 score, that every precision keeps.

    One line per task type and a thick one for the mean over types; a retention is a ratio of mean scores.
    The axes do not start at zero.
    """
    title = "What each precision keeps"
    names = precisions_of(results)
    bases = [name for name in ("teacher", "float16") if results["mean"].get(name, 0) > 0]
    if not names or not bases:
        return empty_figure(title, "no scores to compare")
    figure = make_subplots(cols=len(bases), horizontal_spacing=0.12)
    by_type = results.get("mean_by_type", {})
    for column, base in enumerate(bases, start=1):
        place = {"row": 1, "col": column}
        for kind, scores in by_type.items():
            label, line = (
                TASK_TYPE_LABELS.get(kind, kind),
                {"color": TASK_TYPE_COLOURS.get(kind, MUTED), "width": 1.5},
            )
            figure.add_scatter(**_retention(scores, names, base), **_style(label, line, column), **place)
        label = f"Mean over {len(by_type)} types" if by_type else "Mean"
        line = {"color": INK, "width": 3.5}
        figure.add_scatter(**_retention(results["mean"], names, base), **_style(label, line, column), **place)
        figure.add_hline(y=100, line={"color": MUTED, "width": 1, "dash": "dot"}, **place)
        of_whom = "the teacher" if base == "teacher" else "own float16"
        figure.update_yaxes(title_text=f"% of {of_whom}", ticksuffix=" %", **place)
        figure.update_xaxes(title_text="stored precision", **place)
    subtitle = "mean score relative to 100 %, by type of task; the axes do not start at zero"
    return styled(figure, title, subtitle)


def _retention(scores: Mapping[str, float], precisions: Sequence[str], base: str) -> dict[str, Any]:
    """Points of one line: score by precision, in percent of the column `base`."""
    whole = scores.get(base, 0)
    kept = [scores.get(precision) for precision in precisions]
    return {
        "x": list(precisions),
        "y": [100 * score / whole if score is not None and whole > 0 else None for score in kept],
        "customdata": [None if score is None else 100 * score for score in kept],
    }


def _style(name: str, line: dict[str, Any], column: int) -> dict[str, Any]:
    return {
        "name": name,
        "legendgroup": name,
        "showlegend": column == 1,
        "line": line,
        "mode": "lines+markers",
        "marker": {"size": 7},
        "hovertemplate": f"{name}<br>%{{x}}: %{{y:.1f}} %<br>score %{{customdata:.2f}}<extra></extra>",
    }


def storage_versus_accuracy(results: Results, dimension: int | None = None) -> go.Figure:
    """Mean score against the bytes that one stored vector takes, scale included, on a log2 axis.

    Horizontal lines mark the teacher and the baselines, where the results have them. `dimension` is the
    number of values per vector; by default the one in the results.
    """
    title = "Storage against accuracy"
    dimension = dimension if dimension is not None else results["dimension"]
    means = {name: 100 * score for name, score in results["mean"].items()}
    sizes = {name: StorageFormat(name, dimension).bytes_per_vector for name in precisions_of(results)}
    sizes = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    one_of_each_size = len(set(sizes.values())) == len(sizes)  # a line through several would mean nothing
    if not sizes:
        return empty_figure(title, "no scores to draw")
    figure = go.Figure()
    figure.add_scatter(
        x=list(sizes.values()),
        y=[means[name] for name in sizes],
        text=[f"{name}<br>{size:,} B" for name, size in sizes.items()],
        customdata=[[name, 4 * dimension / size, 1e6 * size / 2**30] for name, size in sizes.items()],
        mode="lines+markers+text" if one_of_each_size else "markers+text",
        textposition="bottom center",
        textfont={"size": 12},
        cliponaxis=False,
        line={"color": BLUE, "width": 1.5},
        marker={"size": 10},
        hovertemplate="<b>%{customdata[0]}</b><br>%{x:,} bytes per vector (1/%{customdata[1]:.1f} of float32)"
        "<br>a million vectors: %{customdata[2]:.2f} GiB<br>mean score %{y:.2f}<extra></extra>",
        showlegend=False,
    )
    for column, colour in zip(references_of(results), (INK, *PALETTE[1:]), strict=False):
        label = f"{COLUMN_LABELS.get(column, column)}: {means[column]:.1f}"
        figure.add_hline(
            y=means[column],
            line={"color": colour, "width": 1.5, "dash": "dash"},
            annotation={"text": label, "font": {"color": colour, "size": 12}},
            annotation_position="top left" if column == "teacher" else "bottom right",
        )
    bytes_axis(figure, sizes.values())
    low, high = min(means.values()), max(means.values())
    margin = max(0.12 * (high - low), 0.5)
    figure.update_yaxes(title_text="mean score (x 100)", range=[low - margin, high + margin])
    return styled(figure, title, f"{dimension:,} dimensions, {_tasks(results)}", height=460)


def _tasks(results: Results) -> str:
    count, types = len(results["tasks"]), len(results.get("mean_by_type", {}))
    if count == 1:
        return "one task"
    return f"mean over {types} types of {count} tasks" if types > 1 else f"mean of {count} tasks"
