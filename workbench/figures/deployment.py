"""A model in use: how fast it is here, what its vectors take, and what a search returned."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bitembed_core.storage import StorageFormat
from bitembed_core.storage.precisions import PRECISIONS
from workbench.deploy import Answer, Measurement
from workbench.figures.html import Html, Row, table
from workbench.figures.theme import PALETTE, empty_figure, styled

MANY = 1_000_000


def speed_by_length(measurements: Sequence[Measurement]) -> go.Figure:
    """Tokens per second in batches, and milliseconds for one text alone, by tokens per text; a line per measurement."""
    title = "Speed on this machine"
    if not measurements:
        return empty_figure(title, "nothing has been measured yet")
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.12)
    for number, (measured, colour) in enumerate(
        zip(measurements, PALETTE * len(measurements), strict=False), start=1
    ):
        name = f"{number}: {measured.model}, {measured.kernel}"
        speed = measured.speed
        lines = (
            (1, speed.together, [t.tokens_per_second for t in speed.together], "%{y:,.0f} tokens/s"),
            (2, speed.alone, [t.ms_per_text for t in speed.alone], "%{y:.2f} ms"),
        )
        for row, timings, values, reading in lines:
            figure.add_scatter(
                x=[timing.tokens_per_text for timing in timings],
                y=values,
                customdata=[[100 * timing.spread] for timing in timings],
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"size": 8},
                hovertemplate=f"{escape(name)}<br>%{{x}} tokens a text: {reading}"
                "<br>slowest to fastest run %{customdata[0]:.0f} % of the median<extra></extra>",
                row=row,
                col=1,
            )
    ticks = sorted({timing.tokens_per_text for m in measurements for timing in m.speed.together})
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    figure.update_xaxes(title_text="tokens per text", row=2, col=1)
    figure.update_yaxes(title_text="tokens/s, in batches", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="ms, one text alone", rangemode="tozero", row=2, col=1)
    return styled(figure, title, escape(measurements[-1].hardware), height=560)


def measurement_table(measurements: Sequence[Measurement]) -> Html:
    """What was measured, a row for each model, kernel and length."""
    rows = []
    for number, m in enumerate(measurements, start=1):
        grown = "?" if m.resident is None else f"{m.resident / 1e6:.0f} MB"
        rows.append(
            Row([f"{number}: {m.model}, {m.kernel}", "", "", "", f"{m.weights / 1e6:.1f} MB", grown], "group")
        )
        rows += [
            Row(
                [
                    f"{timing.tokens_per_text} tokens a text",
                    f"{timing.tokens_per_second:,.0f}",
                    f"{timing.ms_per_text:.2f}",
                    f"{alone.ms_per_text:.2f}",
                    "",
                    "",
                ]
            )
            for timing, alone in zip(*m.speed, strict=True)
        ]
    header = ["Model, kernel", "tokens/s", "ms a text, in batches", "ms, one text alone", "Weights", "Memory"]
    note = "Memory: what loading and running the model added to this process, its tokenizer and buffers included."
    return table(header, rows, note=note)


def format_table(dimension: int, texts: int, chosen: str) -> Html:
    """Bytes of every storage format for vectors of `dimension`: one, `texts` of them, and a million."""
    names = list(dict.fromkeys((*PRECISIONS, chosen)))
    rows = []
    for name in names:
        size = StorageFormat(name, dimension).bytes_per_vector
        cells = [name, f"{size:,}", f"{size * texts / 1e6:,.2f} MB", f"{size * MANY / 1e6:,.0f} MB"]
        rows.append(Row(cells, "total" if name == chosen else ""))
    return table(["Precision", "Bytes a vector", f"{texts:,} texts", "A million texts"], rows)


def answer_card(answer: Answer) -> Html:
    """What a search returned, best first, under its query and the time that it took."""
    items = "".join(
        f"<li><span class='mark'>{rank}</span><span class='text'>{escape(_shorten(hit.text))}</span>"
        f"<span class='score'>{hit.score:.3f}</span></li>"
        for rank, hit in enumerate(answer.hits, start=1)
    )
    took = f"{answer.encode_ms:.1f} ms to encode the query, {answer.search_ms:.1f} ms to search"
    return Html(
        f"<div class='bitembed'><div class='card'><p class='query'>{escape(answer.query)}</p>"
        f"<div class='column'><ol>{items}</ol></div><p class='note'>{took}; numbers are cosine similarities</p>"
        "</div></div>"
    )


def _shorten(text: str, limit: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3].rsplit(" ", 1)[0] + " ..."
