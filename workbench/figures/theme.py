"""One look for every figure: white, quiet, readable in print and by the colour-blind (Okabe-Ito palette)."""

from collections.abc import Collection, Mapping
from textwrap import wrap

import plotly.graph_objects as go

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e7ebef"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
BLUES = ("#9ecae1", "#6baed6", "#3f8fc5", "#1f6bb0", "#08306b")  # from few bits to many
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)

TOP = 84  # pixels above the plot, with a title and a subtitle of one line each
BOTTOM = 56  # pixels below it, without a legend
LEGEND = 56  # pixels from the plot to the legend below its axis
TITLE_CHARACTERS, SUBTITLE_CHARACTERS = 40, 56  # of a line, that a phone is wide enough for
LINE = 19  # pixels

# A legend under labels however long, and in as many lines as a phone needs; to be applied to a `styled` figure.
LEGEND_BELOW = {"legend": {"yref": "container", "y": 0, "yanchor": "bottom"}, "margin": {"b": 120}}

FONT_FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
PLOTLY_CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}

_AXIS = {
    "gridcolor": GRID,
    "linecolor": "#aab4be",
    "showline": True,
    "ticks": "outside",
    "tickcolor": "#aab4be",
    "ticklen": 4,
    "zeroline": False,
    "automargin": True,
    "title": {"font": {"size": 13, "color": MUTED}, "standoff": 8},
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT_FAMILY, "size": 13, "color": INK},
        "title": {
            "font": {"size": 17},
            "subtitle": {"font": {"size": 13, "color": MUTED}},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 14, "l": 8},
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": list(PALETTE),
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "white",
            "bordercolor": "#aab4be",
            "font": {"family": FONT_FAMILY, "color": INK},
        },
        "modebar": {"remove": ["zoomIn2d", "zoomOut2d", "autoScale2d", "pan2d"]},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "yanchor": "top"},
        "margin": {"l": 64, "r": 24, "t": TOP, "b": BOTTOM},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)

TASK_TYPE_LABELS: Mapping[str, str] = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "sts": "Similarity (STS)",
    "pairclassification": "Pair classification",
    "classification": "Classification",
    "clustering": "Clustering",
    "summarization": "Summarization",
}
TASK_TYPE_COLOURS: Mapping[str, str] = dict(
    zip(TASK_TYPE_LABELS, (BLUE, SKY, ORANGE, "#8c6d31", GREEN, PURPLE, VERMILION), strict=True)
)


def styled(figure: go.Figure, title: str, subtitle: str = "", height: int = 420, above: int = 0) -> go.Figure:
    """Give `figure` the house template, a title, a subtitle and a height in pixels; returns it.

    Long titles are cut into lines, which make the figure higher. `above` pixels more are kept free between titles and plot.
    """
    heading, below = lines(title, TITLE_CHARACTERS), lines(subtitle, SUBTITLE_CHARACTERS)
    more = LINE * (heading.count("<br>") + below.count("<br>"))
    figure.update_layout(
        template=TEMPLATE,
        title={"text": heading, "subtitle": {"text": below}},
        height=height + more,
        margin_t=TOP + more + above,
        legend_y=-LEGEND / max(height - TOP - above - BOTTOM, 1),
    )
    return figure


def lines(text: str, characters: int) -> str:
    """`text` with line breaks between words where a line would have more than so many `characters`."""
    return "<br>".join(wrap(text, characters, break_long_words=False, break_on_hyphens=False))


def bytes_axis(figure: go.Figure, sizes: Collection[float]) -> None:
    """Make the horizontal axis one of bytes per vector, log2, that spans `sizes`."""
    smallest, largest = min(sizes), max(sizes)
    ticks = [2**power for power in range(24) if smallest / 2.1 <= 2**power <= largest * 2.1]
    figure.update_xaxes(
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        title_text="bytes per vector, scale included (log2)",
    )


def empty_figure(title: str, message: str) -> go.Figure:
    """A figure that says in words why it has nothing to draw."""
    figure = styled(go.Figure(), title, height=220)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    figure.add_annotation(
        text=message, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font_color=MUTED
    )
    return figure
