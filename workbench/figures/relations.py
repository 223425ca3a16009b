"""Relations between the tokens of a text, and how far a student's are from its teacher's.

Models are named "teacher", "before" and "after"; a map holds R = softmax(A A^T / t) of one phi, layer and head.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench.figures.theme import BLUE, INK, LEGEND_BELOW, MUTED, VERMILION, styled

Array = NDArray[np.float32]

LABELS = {
    "teacher": "Teacher",
    "before": "Student before distillation",
    "after": "Student after distillation",
}
COLOURS = {"teacher": MUTED, "before": VERMILION, "after": BLUE}
SYMBOLS = {"Q": "circle-open", "K": "square-open", "V": "diamond-open"}
LONGEST_LABEL = 12  # characters


def relation_map(tokens: Sequence[str], map_TT: Array, model: str, phi: str, largest: float) -> go.Figure:
    """Heatmap of one model's relations: how token (row) relates to token (column).

    Args:
        largest: the probability at which the colours end, the same for all maps that are compared. A token's relation
            to itself is often stronger.
    """
    count = len(tokens)
    hover = [
        [f"<b>{tokens[i]}</b> to <b>{tokens[j]}</b>: {map_TT[i, j]:.4f}" for j in range(count)]
        for i in range(count)
    ]
    figure = go.Figure(
        go.Heatmap(
            z=map_TT,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=largest,
            xgap=1,
            ygap=1,
            colorbar={"orientation": "h", "y": -0.02, "yanchor": "top", "thickness": 10, "len": 1.0},
        )
    )
    axis = _token_axis(tokens) | {"constrain": "domain"}
    figure.update_xaxes(axis, side="top", tickangle=-60)
    figure.update_yaxes(axis, autorange="reversed", scaleanchor="x")
    styled(figure, LABELS[model], f"{phi}-{phi} relations; each row sums to 1", height=500, above=46)
    return figure.update_layout(margin={"l": 8, "r": 8, "b": 20})


def strongest_relation(map_TT: Array) -> float:
    """The largest probability between two different tokens; of a single token, that to itself."""
    apart = map_TT[~np.eye(len(map_TT), dtype=bool)]
    return float(apart.max()) if apart.size else float(map_TT.max())


def relation_row(
    tokens: Sequence[str], rows: Mapping[str, Array], row: int, column: int, phi: str
) -> go.Figure:
    """How every model relates token `row` to all tokens, with the one that was clicked, `column`, marked.

    Args:
        rows: by model, (T,) probabilities.
    """
    figure = _token_bars(tokens, rows, "%{y:.4f}")
    figure.add_vrect(column - 0.5, column + 0.5, fillcolor=INK, opacity=0.08, line_width=0)
    at_column = ", ".join(f"{name} {row_T[column]:.3f}" for name, row_T in rows.items())
    figure.update_yaxes(title_text="probability")
    title = f"{phi}-{phi}: \u201c{tokens[row]}\u201d to \u201c{tokens[column]}\u201d"
    return styled(figure, title, at_column, height=420).update_layout(LEGEND_BELOW)


def divergence_by_token(tokens: Sequence[str], by_student: Mapping[str, Array], phi: str) -> go.Figure:
    """A bar per token and student: KL(teacher || student) of the token's row, in nats."""
    figure = _token_bars(tokens, by_student, "%{y:.4f} nats")
    figure.update_yaxes(title_text="KL(teacher || student), nats")
    styled(figure, "Divergence by token", f"whose {phi}-{phi} relations the student gets wrong", height=420)
    return figure.update_layout(LEGEND_BELOW)


def divergence_by_layer(
    by_student: Mapping[str, Mapping[str, Array]], paper_layer: int, measured_on: str
) -> go.Figure:
    """Divergence of every student by layer: a line for the mean of Q, K and V, a marker for each.

    Args:
        by_student: (L,) values in nats, under "mean", "Q", "K" and "V".
        paper_layer: the layer that the paper's rule picks, marked.
        measured_on: what the values are means over.
    """
    figure = go.Figure()
    layers = max(len(values["mean"]) for values in by_student.values())
    for student, values in by_student.items():
        colour = COLOURS[student]
        for phi, symbol in SYMBOLS.items():
            figure.add_scatter(
                y=values[phi],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 8},
                name=f"{phi}-{phi}",
                showlegend=student == next(iter(by_student)),
                hovertemplate=f"layer %{{x}}, {phi}-{phi} {student}: %{{y:.4f}} nats<extra></extra>",
            )
        figure.add_scatter(
            y=values["mean"],
            mode="lines+markers",
            line={"color": colour, "width": 3},
            name=f"{LABELS[student]}, mean",
            hovertemplate=f"layer %{{x}}, mean {student}: %{{y:.4f}} nats<extra></extra>",
        )
    figure.add_vline(
        x=paper_layer,
        line={"color": INK, "width": 1, "dash": "dot"},
        annotation={"text": "the paper's choice", "font": {"color": MUTED}},
        annotation_position="top left",
    )
    figure.update_xaxes(title_text="layer, from 0 as in --relation-layer", dtick=max(1, layers // 14))
    figure.update_yaxes(title_text="KL, nats a token", rangemode="tozero")
    styled(figure, "Divergence by layer", f"mean over heads and {measured_on}", height=480)
    return figure.update_layout(LEGEND_BELOW)


def divergence_by_head(values_LR: Array, student: str, phi: str, largest: float) -> go.Figure:
    """Heatmap of one student's divergence by layer and relation head; colours end at `largest`."""
    layers, heads = values_LR.shape
    figure = go.Figure(
        go.Heatmap(
            z=values_LR,
            zmin=0,
            zmax=largest,
            colorscale="Oranges",
            xgap=1,
            ygap=1,
            hovertemplate="layer %{y}, head %{x}: %{z:.4f} nats<extra></extra>",
            colorbar={"title": {"text": "nats"}, "thickness": 10},
        )
    )
    figure.update_xaxes(title_text="relation head", dtick=max(1, heads // 12))
    figure.update_yaxes(title_text="layer", autorange="reversed", dtick=max(1, layers // 12))
    subtitle = f"{LABELS[student].lower()}, {phi}-{phi}"
    return styled(figure, "Divergence by layer and head", subtitle, height=180 + 24 * layers)


def _token_bars(tokens: Sequence[str], by_model: Mapping[str, Array], value: str) -> go.Figure:
    figure = go.Figure()
    for name, values_T in by_model.items():
        figure.add_bar(
            y=values_T,
            name=LABELS[name],
            marker={"color": COLOURS[name]},
            customdata=list(tokens),
            hovertemplate=f"<b>%{{customdata}}</b>, {name}: {value}<extra></extra>",
        )
    figure.update_xaxes(_token_axis(tokens), tickangle=-60)
    return figure.update_layout(barmode="group", bargap=0.25)


def _token_axis(tokens: Sequence[str]) -> dict[str, Any]:
    """An axis on which token i is at i; by name, tokens that occur twice would fall together."""
    short = [
        token if len(token) <= LONGEST_LABEL else token[: LONGEST_LABEL - 1] + "\u2026" for token in tokens
    ]
    size = 11 if len(tokens) <= 24 else 9
    return {"tickvals": list(range(len(tokens))), "ticktext": short, "tickfont": {"size": size}}
