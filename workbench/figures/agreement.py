"""How far a changed model's embeddings have moved from the original's."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from workbench.figures.theme import INK, MUTED, PALETTE, empty_figure, styled


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
    figure.update_xaxes(title_text="cosine to the original model's embedding of the same text")
    styled(figure, title, "one dot per text; 1 is unchanged, 0 is unrelated", 180 + 84 * len(cosines))
    return figure.update_layout(showlegend=False)
