"""What the linears are given before and after SubLN: the size of a token, and how far its outliers stand out."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from workbench.activations import InputSizes
from workbench.figures.theme import BLUE, VERMILION, empty_figure, styled

TICKS = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 5)]
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def activation_ranges(
    before: Mapping[int, InputSizes], after: Mapping[int, InputSizes], kind: str, has_norm: bool
) -> go.Figure:
    """Inputs of one kind of projection by layer, in the original model and in the converted one.

    Above the root mean square of each token's vector, below max|x| / rms; a box from the smallest to the largest token,
    around its middle half and with the median. Both axes are logarithmic.

    Args:
        before, after: by layer number.
        kind: name of the projection, for the title.
        has_norm: whether the converted projection has a norm of its own.
    """
    title = f"What goes into {kind}"
    if not before:
        return empty_figure(title, "nothing was recorded")
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.1)
    converted = "converted, after its norm" if has_norm else "converted, which has no norm here"
    for name, sizes, colour in (("original", before, VERMILION), (converted, after, BLUE)):
        layers = list(sizes)
        for row, values in (
            (1, [sizes[layer].rms for layer in layers]),
            (2, [sizes[layer].outlier_ratio for layer in layers]),
        ):
            figure.add_box(**_boxes(layers, values), **_style(name, colour, row), row=row, col=1)
    figure.update_yaxes(type="log", tickvals=TICKS, ticktext=[f"{tick:g}" for tick in TICKS])
    figure.update_yaxes(title_text="size of a token (rms)", row=1, col=1)
    figure.update_yaxes(title_text="max|x| / rms", row=2, col=1)
    figure.update_xaxes(title_text="layer", dtick=1 if len(before) <= 12 else 4, row=2, col=1)
    figure.update_layout(boxmode="group", boxgap=0.35)
    tokens = len(next(iter(before.values())).rms)
    subtitle = f"{tokens:,} tokens; boxes: smallest, quartiles, largest"
    return styled(figure, title, subtitle, height=560)


def _boxes(layers: list[int], values: list[NDArray[np.float32]]) -> dict[str, list[float] | list[int]]:
    """Precomputed box plots: thousands of tokens become five numbers each."""
    numbers = [np.quantile(of_layer, QUANTILES).tolist() for of_layer in values]
    names = ("lowerfence", "q1", "median", "q3", "upperfence")
    return {"x": layers} | dict(zip(names, map(list, zip(*numbers, strict=True)), strict=True))


def _style(name: str, colour: str, row: int) -> dict[str, object]:
    return {
        "name": name,
        "legendgroup": name,
        "offsetgroup": name,
        "showlegend": row == 1,
        "line": {"color": colour, "width": 1.5},
        "fillcolor": "rgba(255, 255, 255, 0)",
        "whiskerwidth": 0.6,
        "hoverlabel": {"namelength": -1},
    }
