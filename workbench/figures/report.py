"""A report that is one HTML file: it opens anywhere, without a network, and keeps its figures interactive."""

import os
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from bitembed_core.files import atomic_path
from workbench.figures.html import STYLE, Html
from workbench.figures.theme import FONT_FAMILY, PLOTLY_CONFIG


class Section(NamedTuple):
    """A heading, paragraphs (plain text, blank lines between them), then figures and tables in order."""

    title: str
    text: str = ""
    items: Sequence[go.Figure | Html] = ()


# The policy forbids every request, so that a report can never depend on, or talk to, another machine.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
_PAGE_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.6 FONT_FAMILY; color: #1f2933; background: white; max-width: 1080px; margin: 0 auto;
  padding: 40px 24px 80px; }
h1 { font-size: 30px; line-height: 1.25; margin: 0 0 12px; }
h2 { font-size: 21px; margin: 56px 0 8px; padding-top: 14px; border-top: 1px solid #dfe4e9; }
p { max-width: 76ch; margin: 0 0 12px; }
.summary p { font-size: 18px; color: #3d4a56; }
nav { margin: 20px 0 0; font-size: 14px; }
nav a { color: #0072b2; margin-right: 18px; }
.item { margin: 18px 0 28px; }
@media print { nav { display: none; } .item { break-inside: avoid; } }
""".replace("FONT_FAMILY", FONT_FAMILY)


def write_report(
    path: str | os.PathLike[str], title: str, summary: str | Html, sections: Sequence[Section]
) -> None:
    """Write the report to `path`, whole or not at all. plotly.js is included once (about 5 MB)."""
    with atomic_path(path) as fresh:
        fresh.write_text(render_report(title, summary, sections), encoding="utf-8")


def render_report(title: str, summary: str | Html, sections: Sequence[Section]) -> str:
    """The report as a string of HTML; the same input gives the same bytes."""
    links = "".join(f"<a href='#section-{n}'>{escape(s.title)}</a>" for n, s in enumerate(sections, start=1))
    body = "\n".join(_section(number, section) for number, section in enumerate(sections, start=1))
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_PAGE_STYLE}{STYLE}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<div class='summary'>{_text(summary)}</div>\n<nav>{links}</nav>\n{body}\n"
        "</body>\n</html>\n"
    )


def _section(number: int, section: Section) -> str:
    items = "\n".join(
        f"<div class='item'>{_item(item, f'figure-{number}-{index}')}</div>"
        for index, item in enumerate(section.items, start=1)
    )
    heading = f"<h2>{escape(section.title)}</h2>"
    return f"<section id='section-{number}'>\n{heading}\n{_text(section.text)}\n{items}\n</section>"


def _item(item: go.Figure | Html, name: str) -> str:
    if isinstance(item, Html):
        return item.markup
    return item.to_html(full_html=False, include_plotlyjs=False, config=PLOTLY_CONFIG, div_id=name)


def _text(text: str | Html) -> str:
    if isinstance(text, Html):
        return text.markup
    paragraphs = (part.strip() for part in text.split("\n\n"))
    return "\n".join(f"<p>{escape(part)}</p>" for part in paragraphs if part)
