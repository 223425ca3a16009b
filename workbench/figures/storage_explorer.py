"""Storage formats compared: scores and recall against bytes per vector, and what an index would need."""

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from bitembed_core.storage.precisions import split_name
from workbench.explorer.formats import Recall, cheapest
from workbench.explorer.retention import ALL_TYPES, Base, StoredScore, frontier
from workbench.figures.html import Html, Row, table
from workbench.figures.theme import (
    BLUE,
    GRID,
    INK,
    MUTED,
    PALETTE,
    TASK_TYPE_COLOURS,
    TASK_TYPE_LABELS,
    bytes_axis,
    empty_figure,
    styled,
)
from workbench.search.planner import Plan, Prices

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
BASE_LABELS: Mapping[Base, str] = {"float32": "the same model's float32", "teacher": "the teacher"}


def retention_against_bytes(scores: Sequence[StoredScore], base: Base) -> go.Figure:
    """A point per way to store, colour by type of task and symbol by model; a line through what no other way beats.

    Scores of models that have no such base are left out.
    """
    title = "What is kept, at how many bytes"
    groups: dict[tuple[str, str], list[StoredScore]] = {}
    for row in scores:
        if row.retention(base) is not None:
            groups.setdefault((row.model, row.kind), []).append(row)
    if not groups:
        return empty_figure(title, f"no chosen file has scores of {BASE_LABELS[base]}")
    models = list(dict.fromkeys(model for model, _ in groups))
    figure = go.Figure()
    for number, ((model, kind), rows) in enumerate(groups.items()):
        kept = [100 * (row.retention(base) or 0) for row in rows]
        best = frontier([row.bytes_per_vector for row in rows], kept)
        beaten = [index for index in range(len(rows)) if index not in best]
        colour = INK if kind == ALL_TYPES else TASK_TYPE_COLOURS.get(kind, MUTED)
        label = "Mean over types" if kind == ALL_TYPES else TASK_TYPE_LABELS.get(kind, kind)
        name = label if len(models) == 1 else f"{label}, {model}"
        for chosen, mode in ((best, "lines+markers"), (beaten, "markers")):
            figure.add_scatter(
                x=[rows[index].bytes_per_vector for index in chosen],
                y=[kept[index] for index in chosen],
                mode=f"{mode}+text" if chosen is best and number == 0 else mode,
                text=[rows[index].way.partition(",")[0] for index in chosen],
                textposition="bottom right",
                textfont={"size": 11},
                cliponaxis=False,
                name=name,
                legendgroup=name,
                showlegend=chosen is best,
                line={"color": colour, "width": 3 if kind == ALL_TYPES else 1.5, "shape": "hv"},
                marker={"color": colour, "symbol": SYMBOLS[models.index(model) % len(SYMBOLS)], "size": 9},
                opacity=1 if chosen is best else 0.35,
                customdata=[[rows[index].way, rows[index].score] for index in chosen],
                hovertemplate=f"<b>%{{customdata[0]}}</b><br>{model}, {label.lower()}<br>%{{x:,}} bytes per vector"
                "<br>%{y:.1f} % kept, score %{customdata[1]:.2f}<extra></extra>",
            )
    figure.add_hline(y=100, line={"color": MUTED, "width": 1, "dash": "dot"})
    bytes_axis(figure, [row.bytes_per_vector for rows in groups.values() for row in rows])
    figure.update_yaxes(title_text=f"% of {BASE_LABELS[base]}", ticksuffix=" %")
    return styled(figure, title, f"{', '.join(models)}; the axis does not start at 0", height=520)


def recall_against_bytes(
    recalls: Sequence[Recall], before: Sequence[Recall] = (), wanted: float | None = None, top: int = 10
) -> go.Figure:
    """Recall of float32's neighbours by each format, colour by dimensions that are kept.

    Args:
        before: the same formats without rescoring, drawn as small rings under what rescoring makes of them.
        wanted: a share of neighbours to draw as a line.
        top: neighbours that are looked for.
    """
    title = f"Share of {top} neighbours found"
    if not recalls:
        return empty_figure(title, "choose a format")
    kept = {row.setting.precision: split_name(row.setting.precision)[1] for row in recalls}
    lengths = sorted(set(kept.values()), key=lambda length: -float("inf") if length is None else -length)
    widest = max(row.bytes_searched for row in recalls)
    figure = go.Figure()
    first = {row.setting.precision: row for row in before}
    for length, colour in zip(lengths, PALETTE * len(lengths), strict=False):
        rows = [row for row in recalls if kept[row.setting.precision] == length]
        name = "all dimensions" if length is None else f"first {length} dimensions"
        for row in rows:
            if row.bytes_beside and row.setting.precision in first:
                start = first[row.setting.precision]
                figure.add_scatter(
                    x=[start.bytes_searched, row.bytes_searched],
                    y=[100 * start.recall, 100 * row.recall],
                    mode="lines+markers",
                    line={"color": colour, "width": 1, "dash": "dot"},
                    marker={"size": [7, 0], "symbol": "circle-open", "color": colour},
                    legendgroup=name,
                    showlegend=False,
                    hovertemplate=f"{row.setting.precision} without rescoring<br>%{{y:.1f}} %<extra></extra>",
                )
        figure.add_scatter(
            x=[row.bytes_searched for row in rows],
            y=[100 * row.recall for row in rows],
            text=[row.setting.precision for row in rows] if colour == PALETTE[0] else None,
            customdata=[[row.setting.precision, _beside(row)] for row in rows],
            mode="markers+text",
            textposition=[_label_place(row, widest) for row in rows],
            textfont={"size": 11, "color": colour},
            name=name,
            legendgroup=name,
            marker={"size": 10, "color": colour},
            hovertemplate="<b>%{customdata[0]}</b><br>%{x:,} bytes per vector%{customdata[1]}"
            "<br>finds %{y:.1f} %<extra></extra>",
        )
    if wanted is not None:
        figure.add_hline(y=100 * wanted, line={"color": INK, "width": 1.5, "dash": "dash"})
    bytes_axis(figure, [row.bytes_searched for row in recalls])
    low = min(row.recall for row in (*recalls, *before))
    figure.update_yaxes(title_text=f"recall@{top}", ticksuffix=" %", range=[max(0, 100 * low - 8), 108])
    queries = "float queries" if recalls[0].setting.float_queries else "symmetric: queries stored alike"
    return styled(figure, title, f"of float32's nearest; {queries}", height=480)


def cheapest_in_words(recalls: Sequence[Recall], wanted: float) -> str:
    """Which format finds the share `wanted` of the neighbours with the fewest bytes, as a sentence."""
    best = cheapest(recalls, wanted)
    if best is None:
        return f"None of these formats finds {100 * wanted:g} % of float32's neighbours."
    return (
        f"Smallest format that finds {100 * wanted:g} % of float32's neighbours: {best.setting.precision}, "
        f"{best.bytes_searched:,} bytes per vector{_beside(best)}; it finds {100 * best.recall:.1f} %."
    )


def plan_bars(plans: Sequence[Plan], measure: str, prices: Prices) -> go.Figure:
    """A bar per format, the widest on top; `measure` is one of PLAN_MEASURES."""
    unit, value = PLAN_MEASURES[measure]
    values = [value(row, prices) for row in plans]
    figure = go.Figure()
    figure.add_bar(
        x=values,
        y=[row.precision for row in plans],
        orientation="h",
        marker={"color": BLUE},
        text=[f"{number:,.3g}" for number in values],
        textposition="outside",
        cliponaxis=False,
        hovertemplate=f"<b>%{{y}}</b><br>%{{x:,.4g}} {unit}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text=unit, gridcolor=GRID, range=[0, 1.18 * max(values, default=1) or 1])
    return styled(figure, measure, "exact search, every format", height=150 + 26 * len(plans))


def plan_table(plans: Sequence[Plan], prices: Prices, queries_per_second: float) -> Html:
    """Every format: bytes, memory, disk, reading per second at so many single queries, time per query, money."""
    rows = [
        Row(
            [
                row.precision,
                f"{row.bytes_per_vector:,}",
                _bytes(row.bytes_in_memory),
                _bytes(row.bytes_on_disk),
                f"{_bytes(row.bytes_read_per_query * queries_per_second)}/s",
                _seconds(row.seconds_per_query),
                row.limit,
                f"{row.monthly(prices):,.2f}",
            ]
        )
        for row in plans
    ]
    header = [
        "Format",
        "Bytes/vector",
        "Memory",
        "Disk",
        "Reading",
        "Time/query",
        "Limited by",
        "Money/month",
    ]
    note = (
        f"Reading: memory bandwidth that {queries_per_second:g} queries per second ask for, one at a time. Times are "
        "estimates for exact search on one machine like this one, however much memory it would need; ids of 16 bytes "
        "are included in memory and disk."
    )
    return table(header, rows, note=note)


PLAN_MEASURES: Mapping[str, tuple[str, Callable[[Plan, Prices], float]]] = {
    "Money per month": ("money per month", Plan.monthly),
    "Memory": ("GB", lambda row, _: row.bytes_in_memory / 1e9),
    "Disk": ("GB", lambda row, _: row.bytes_on_disk / 1e9),
    "Time per query": ("seconds", lambda row, _: row.seconds_per_query),
}


def _label_place(row: Recall, widest: int) -> str:
    """Formats of one size come in pairs, except the ternary one; the widest stand at the edge."""
    name = row.setting.precision
    if name.startswith("ternary"):
        return "bottom center"
    if row.bytes_searched == widest:
        return "bottom left"
    return "top left" if "fitted" in name else "bottom right"


def _beside(row: Recall) -> str:
    return f", and {row.bytes_beside:,} of {row.setting.rescore} to rescore with" if row.bytes_beside else ""


def _bytes(number: float) -> str:
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return f"{number:.0f} B"


def _seconds(number: float) -> str:
    return f"{1e3 * number:,.3g} ms" if number < 1 else f"{number:,.3g} s"
