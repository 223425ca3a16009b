"""Tables and cards as HTML fragments that marimo, Jupyter and the report all show."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from workbench.figures.theme import FONT_FAMILY

STYLE = """
.bitembed { font-family: FONT_FAMILY; font-size: 14px; line-height: 1.45; color: #1f2933; overflow-x: auto; }
.bitembed table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 4px 0; }
.bitembed caption { text-align: left; font-weight: 600; padding: 4px 0 8px; font-size: 15px; }
.bitembed th { font-weight: 600; border-bottom: 2px solid #aab4be; vertical-align: bottom; }
.bitembed th, .bitembed td { padding: 5px 12px; text-align: right; white-space: nowrap; }
.bitembed th:first-child, .bitembed td:first-child { text-align: left; padding-left: 4px; }
.bitembed td { border-bottom: 1px solid #e7ebef; }
.bitembed tr.group td { font-weight: 600; color: #66727f; padding-top: 12px; }
.bitembed tr.total td { font-weight: 600; background: #f5f7f9; }
.bitembed .note { color: #66727f; font-size: 13px; margin: 6px 0; max-width: 76ch; }
.bitembed .cards { display: grid; gap: 18px; }
.bitembed .card { border: 1px solid #dfe4e9; border-radius: 8px; padding: 12px 16px 14px; }
.bitembed .query { font-weight: 600; font-size: 15px; margin: 0 0 10px; }
.bitembed .columns { display: grid; gap: 8px 22px;
  grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); }
.bitembed .column h4 { margin: 0 0 4px; font-size: 13px; color: #66727f; font-weight: 600; }
.bitembed .column ol { list-style: none; margin: 0; padding: 0; }
.bitembed .column li { display: grid; grid-template-columns: 1.3em 1fr auto; gap: 4px 6px; padding: 4px 0;
  border-top: 1px solid #e7ebef; }
.bitembed .column li .mark { color: #0072b2; font-weight: 700; }
.bitembed .column li.other .text { color: #66727f; }
.bitembed .column li .score { color: #66727f; font-variant-numeric: tabular-nums; }
""".replace("FONT_FAMILY", FONT_FAMILY)


@dataclass(frozen=True, slots=True)
class Html:
    """A piece of HTML that draws itself in a notebook."""

    markup: str

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{self.markup}"


@dataclass(frozen=True, slots=True)
class Row:
    """A table row: cells as text; `kind` is "group" (the head of the rows below), "total" or ""."""

    cells: Sequence[str]
    kind: str = ""


def table(header: Sequence[str], rows: Iterable[Row], caption: str = "", note: str = "") -> Html:
    """A table whose first column is text and whose other columns are numbers. All text is escaped here."""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
    body = "".join(_row(row) for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    below = f"<p class='note'>{escape(note)}</p>" if note else ""
    parts = f"{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return Html(f"<div class='bitembed'><table>{parts}</table>{below}</div>")


def _row(row: Row) -> str:
    kind = f" class='{row.kind}'" if row.kind else ""
    return f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.cells) + "</tr>"
