"""Ternary weights made visible: where the thresholds fall, and what a converted model consists of."""

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from bitembed_core.bitlinear import BitLinear
from bitembed_core.conversion import ConversionReport
from workbench.figures.html import Html, Row, table
from workbench.figures.theme import BLUE, INK, LEGEND_BELOW, MUTED, PALETTE, VERMILION, empty_figure, styled
from workbench.figures.training import GAUSSIAN_ZERO_SHARE
from workbench.projections import kind_and_layer


class ProjectionKind(NamedTuple):
    """All layers' BitLinears of one kind; the lists hold one value per layer."""

    name: str
    layers: int
    shapes: list[tuple[int, int]]
    weights: int
    zero_shares: list[float]
    scales: list[float]
    gains: list[float]


def weight_histogram(weights: Tensor | np.ndarray, scale: float, bins: int = 161) -> go.Figure:
    """Histogram of a matrix's latent weights, coloured by the ternary value that each one becomes.

    `scale` is Delta = mean|W| of Eq 1; a weight within Delta/2 of zero becomes 0, others -Delta or +Delta.
    The largest 0.2 % of the weights are left out of the picture, not of the shares.
    """
    flat = torch.as_tensor(weights).detach().float().flatten().numpy()
    threshold = scale / 2
    edge = max(float(np.quantile(np.abs(flat), 0.998)), 1.6 * scale)
    counts, edges = np.histogram(flat, bins=bins, range=(-edge, edge))
    centres = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure()
    parts = (
        ("-1", centres < -threshold, flat < -threshold, VERMILION, -0.75),
        ("0", np.abs(centres) <= threshold, np.abs(flat) <= threshold, MUTED, 0.0),
        ("+1", centres > threshold, flat > threshold, BLUE, 0.75),
    )
    for value, in_bin, in_flat, colour, where in parts:
        figure.add_bar(
            x=centres[in_bin],
            y=counts[in_bin],
            width=edges[1] - edges[0],
            marker={"color": colour, "line": {"width": 0}},
            opacity=0.75,
            name=value,
            hovertemplate=f"weight %{{x:.4f}} becomes {value}<br>%{{y:,}} weights<extra></extra>",
        )
        figure.add_annotation(
            x=where * edge,
            y=1.0,
            yref="paper",
            yanchor="bottom",
            text=f"<b>{value}</b>: {in_flat.mean():.1%}",
            showarrow=False,
        )
    for sign in (-1, 1):
        figure.add_vline(x=sign * threshold, line={"color": INK, "width": 1, "dash": "dot"})
        figure.add_vline(x=sign * scale, line={"color": INK, "width": 2})
    figure.update_xaxes(title_text="latent weight")
    figure.update_yaxes(title_text="number of weights")
    figure.update_layout(bargap=0, showlegend=False)
    subtitle = (
        "dotted: the thresholds \u00b1\u0394/2; "
        f"solid: the values \u00b1\u0394 that remain, \u0394 = mean|W| = {scale:.4f}"
    )
    return styled(figure, "Latent weights and their ternary values", subtitle, height=400, above=20)


def projection_summary(model: nn.Module) -> list[ProjectionKind]:
    """The BitLinears of `model` by kind (`self_attn.q_proj`, ...), in order of first appearance."""
    kinds: dict[str, list[BitLinear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            kinds.setdefault(kind_and_layer(name)[0], []).append(module)
    return [_summarise(name, modules) for name, modules in kinds.items()]


def zero_share_by_layer(kinds: list[ProjectionKind]) -> go.Figure:
    """Share of zero weights, a line per kind of projection over the layers."""
    title = "Share of zeros by layer"
    if not kinds:
        return empty_figure(title, "no ternary layers")
    figure = go.Figure()
    for kind, colour in zip(kinds, PALETTE * len(kinds), strict=False):
        figure.add_scatter(
            x=list(range(kind.layers)),
            y=[100 * share for share in kind.zero_shares],
            name=kind.name,
            mode="lines+markers",
            line={
                "color": colour,
                "width": 1.5,
                "dash": "solid" if len(figure.data) < len(PALETTE) else "dot",
            },
            hovertemplate=f"{kind.name}, layer %{{x}}: %{{y:.1f}} %<extra></extra>",
        )
    figure.add_hline(
        y=100 * GAUSSIAN_ZERO_SHARE,
        line={"color": MUTED, "width": 1, "dash": "dash"},
        annotation={"text": f"normal distribution: {GAUSSIAN_ZERO_SHARE:.1%}", "font": {"color": MUTED}},
        annotation_position="top right",
    )
    most = max(kind.layers for kind in kinds)
    figure.update_xaxes(title_text="layer", dtick=1 if most <= 12 else 4)
    shares = [100 * share for kind in kinds for share in kind.zero_shares] + [100 * GAUSSIAN_ZERO_SHARE]
    around = [min(shares) - 0.6, max(shares) + 0.6]
    figure.update_yaxes(title_text="zeros among the weights", ticksuffix=" %", range=around)
    styled(figure, title, "after rounding; more zeros mean heavier tails", height=480)
    return figure.update_layout(LEGEND_BELOW, margin_b=150)  # six kinds of projection, one below the other


def projection_table(kinds: list[ProjectionKind]) -> Html:
    """One row per kind of projection: how many, their shape, zeros, scale and gain, each with its range."""
    header = [
        "Projection",
        "Layers",
        "Outputs x inputs",
        "Weights",
        "Zeros",
        "Scale \u0394",
        "Gain of its norm",
    ]
    rows = [
        Row(
            [
                kind.name,
                str(kind.layers),
                " / ".join(f"{outputs} x {inputs}" for outputs, inputs in kind.shapes),
                f"{kind.weights / 1e6:.2f} M",
                _range(kind.zero_shares, ".0%"),
                _range(kind.scales, ".4f"),
                _range(kind.gains, ".2f") if kind.gains else "no norm",
            ]
        )
        for kind in kinds
    ]
    total = sum(kind.weights for kind in kinds)
    layers = sum(kind.layers for kind in kinds)
    rows.append(Row(["All", str(layers), "", f"{total / 1e6:.2f} M", "", "", ""], "total"))
    return table(header, rows, note="Ranges are the smallest and the largest value over the layers.")


def floating_point_table(report: ConversionReport, model: nn.Module) -> Html:
    """What a conversion left in floating point, by reason, beside what it made ternary; `model` is the result."""
    counts: dict[str, list[int]] = {"ternary": [report.ternary_weights]}
    for name, reason in report.floating_point.items():
        counts.setdefault(reason, []).append(model.get_parameter(name).numel())
    total = sum(map(sum, counts.values()))
    tensors = {reason: str(len(sizes)) for reason, sizes in counts.items()} | {
        "ternary": str(len(report.ternary))
    }
    rows = [
        Row([reason, tensors[reason], f"{sum(sizes):,}", f"{sum(sizes) / total:.2%}"])
        for reason, sizes in counts.items()
    ]
    return table(["Part of the model", "Tensors", "Numbers", "Share"], rows)


def _summarise(name: str, modules: list[BitLinear]) -> ProjectionKind:
    ternary = [module.ternary() for module in modules]
    return ProjectionKind(
        name=name,
        layers=len(modules),
        shapes=list(dict.fromkeys((module.out_features, module.in_features) for module in modules)),
        weights=sum(module.out_features * module.in_features for module in modules),
        zero_shares=[float((codes == 0).float().mean()) for codes, _ in ternary],
        scales=[float(scale) for _, scale in ternary],
        gains=[
            float(module.norm.weight.detach().float().mean()) for module in modules if module.norm is not None
        ],
    )


def _range(values: list[float], number: str) -> str:
    low, high = f"{min(values):{number}}", f"{max(values):{number}}"
    return low if low == high else f"{low} to {high}"
