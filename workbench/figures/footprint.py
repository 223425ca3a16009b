"""What the bytes of a model are spent on."""

from collections.abc import Mapping

import plotly.graph_objects as go

from workbench.figures.theme import BLUE, INK, LEGEND_BELOW, MUTED, ORANGE, SKY, empty_figure, styled

COLOURS = (ORANGE, SKY, BLUE, MUTED)


def bytes_bars(forms: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """A bar for every form of a model, divided into its parts; `forms` is what `footprint.bytes_by_part` returns."""
    title = "Bytes before and after"
    if not forms:
        return empty_figure(title, "nothing to weigh")
    totals = {form: sum(parts.values()) for form, parts in forms.items()}
    largest = max(totals.values())
    figure = go.Figure()
    for part, colour in zip(next(iter(forms.values())), COLOURS, strict=True):
        sizes = [forms[form][part] for form in forms]
        figure.add_bar(
            x=[size / 1e6 for size in sizes],
            y=list(forms),
            orientation="h",
            name=part,
            marker={"color": colour, "line": {"width": 0}},
            customdata=[[size, size / total] for size, total in zip(sizes, totals.values(), strict=True)],
            hovertemplate=f"%{{y}}<br>{part}: %{{customdata[0]:,}} bytes, %{{customdata[1]:.1%}}<extra></extra>",
        )
    for form, total in totals.items():
        figure.add_annotation(
            x=total / 1e6,
            y=form,
            text=f"<b>{total / 1e6:.1f} MB</b>" + (f"  1/{largest / total:.1f}" if total < largest else ""),
            font={"color": INK},
            showarrow=False,
            xanchor="left",
            xshift=6,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title_text="MB (10^6 bytes)", range=[0, 1.6 * largest / 1e6])
    figure.update_layout(barmode="stack", bargap=0.35, legend_traceorder="normal")
    styled(figure, title, "of the weights, by what they are", height=234 + 46 * len(forms))
    return figure.update_layout(LEGEND_BELOW)
