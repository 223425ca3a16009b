"""How far a changed model's embeddings, and the similarities between them, have moved from the original's."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from workbench.figures.theme import INK, MUTED, PALETTE, empty_figure, lines, styled

BINS = 48


def agreement_by_text(cosines: Mapping[str, ArrayLike]) -> go.Figure:
    """A strip per variant of a model: for every text, the cosine of its embedding to the original model's.

    `cosines` maps the variant's name to one value per text; the mean is drawn as a line and written out.
    """
    title = "Embeddings before and after"
    if not cosines:
        return empty_figure(title, "nothing to compare")
    figure = go.Figure()
    for name, colour in zip(cosines, PALETTE * len(cosines), strict=False):
        values = np.asarray(cosines[name], dtype=float)
        figure.add_box(
            x=values,
            name=f"{name}<br>mean {values.mean():.3f}",
            orientation="h",
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            boxmean=True,
            marker={"color": colour, "size": 4, "opacity": 0.45},
            line={"color": colour, "width": 1.5},
            fillcolor="rgba(255, 255, 255, 0)",
            hoveron="points",
            hovertemplate=f"{name}: %{{x:.3f}}<extra></extra>",
        )
    figure.add_vline(x=1, line={"color": INK, "width": 1})
    figure.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_yaxes(autorange="reversed", tickfont={"size": 13})
    figure.update_xaxes(title_text="cosine to the original's embedding")
    styled(figure, title, "one dot per text; 1 is unchanged, 0 is unrelated", 180 + 84 * len(cosines))
    return figure.update_layout(showlegend=False)


def similarities_before_and_after(pairs: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> go.Figure:
    """A panel per variant of a model: how similar pairs of texts are to the original (across) and to the variant (up).

    `pairs` maps the variant's name to the cosines of the same pairs by the original and by the variant. Darker cells hold
    more pairs; on the diagonal nothing has changed.
    """
    title = "Similarities before and after"
    if not pairs:
        return empty_figure(title, "nothing to compare")
    figure = make_subplots(
        cols=len(pairs), subplot_titles=[lines(name, 12) for name in pairs], shared_yaxes=True
    )
    values = [np.asarray(side, dtype=float) for sides in pairs.values() for side in sides]
    low, high = min(side.min() for side in values), max(side.max() for side in values)
    for column, (name, (original, changed)) in enumerate(pairs.items(), start=1):
        edges = np.linspace(low, high, BINS + 1)
        counts, _, _ = np.histogram2d(np.asarray(changed), np.asarray(original), bins=(edges, edges))
        centres = (edges[:-1] + edges[1:]) / 2
        figure.add_heatmap(
            x=centres,
            y=centres,
            z=np.where(counts > 0, np.log10(np.maximum(counts, 1)) + 0.3, np.nan),
            customdata=counts,
            colorscale=[[0, "#deebf7"], [1, "#08306b"]],
            showscale=False,
            hovertemplate=f"original %{{x:.2f}}, {name} %{{y:.2f}}<br>%{{customdata:,}} pairs<extra></extra>",
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dot"},
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=column,
        )
    figure.update_xaxes(title_text="original", range=[low, high])
    figure.update_yaxes(range=[low, high])
    figure.update_yaxes(title_text="cosine of a pair, changed model", col=1)
    subtitle = f"{len(values[0]):,} pairs of texts; darker: more pairs; dotted: unchanged"
    figure.update_annotations(font_size=12)
    return styled(figure, title, subtitle, height=430, above=34)
