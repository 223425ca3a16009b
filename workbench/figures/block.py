"""A transformer block as a drawing: its matrices, its own norms, and the norms that SubLN adds."""

from collections.abc import Sequence
from html import escape

from bitembed_core.conversion import Sites, is_output_projection
from workbench.blocks import Step
from workbench.figures.html import Html
from workbench.figures.theme import BLUE, FONT_FAMILY, INK, MUTED, VERMILION

WIDTH, CENTRE, LEFT, RIGHT = (
    460,
    262,
    30,
    452,
)  # pixels; boxes lie between CENTRE - (RIGHT - CENTRE) and RIGHT
HEIGHT, GAP, NORM_HEIGHT, BETWEEN = 32, 20, 22, 8
LONE_WIDTH = 210  # of a box that has no neighbour
FILL_AND_LINE = {
    "linear": ("#dcecf6", BLUE),
    "added": ("#fbe0d0", VERMILION),
    "norm": ("#e9edf0", MUTED),
    "operation": ("#ffffff", "#aab4be"),
}
LEGEND = {
    "linear": "ternary matrix, inputs at 8 bits",
    "added": "norm that SubLN adds",
    "norm": "norm of the backbone, as it was",
    "operation": "no weights",
}
ARROW_HEAD = (
    "<defs><marker id='bitembed-arrow' markerWidth='8' markerHeight='8' refX='7' refY='4' orient='auto'>"
    f"<path d='M0 0 L8 4 L0 8 z' fill='{MUTED}'/></marker></defs>"
)


def block_diagram(steps: Sequence[Step], sites: Sites) -> Html:
    """A block from top to bottom; every ternary matrix that has a norm of its own with these `sites` carries it above it."""
    drawing = _Drawing()
    drawing.text(CENTRE, "tokens, from the layer before", 16)
    for step in steps:
        if step.kind == "fork":
            drawing.fork()
        elif step.kind == "add":
            drawing.add()
        else:
            drawing.boxes(step, sites)
    drawing.arrow()
    drawing.text(CENTRE, "to the layer after", 16)
    drawing.legend(("linear", "norm", "operation") if sites == "none" else tuple(LEGEND))
    return drawing.html(f"A transformer block with norms of SubLN at: {sites}")


def has_norm(name: str, sites: Sites) -> bool:
    """Whether the linear called `name` in its block gets a norm of its own."""
    return sites == "all" or (sites == "output" and is_output_projection(f".{name}"))


class _Drawing:
    """Shapes one below the other; `y` is where the next one begins."""

    def __init__(self) -> None:
        self.shapes: list[str] = []
        self.y = 4.0
        self.fork_y = 0.0

    def text(self, x: float, text: str, height: float) -> None:
        self._label(x, self.y + height - 4, text, MUTED)
        self.y += height

    def arrow(self) -> None:
        self._arrow(CENTRE, self.y + 2, self.y + GAP)
        self.y += GAP

    def fork(self) -> None:
        self.fork_y = self.y + 8
        self._line(f"M{CENTRE} {self.y + 2} V{self.y + 12}")
        self.y += 12

    def add(self) -> None:
        """The sum of the branch and of what entered it, which went around on the left."""
        self.arrow()
        middle = self.y + 11
        way_around = f"M{CENTRE} {self.fork_y} H{LEFT} V{middle} H{CENTRE - 12}"
        self._line(way_around, "marker-end='url(#bitembed-arrow)'")
        self.shapes.append(f"<circle cx='{CENTRE}' cy='{middle}' r='11' fill='#ffffff' stroke='{MUTED}'/>")
        self._label(CENTRE, middle + 5, "+", INK)
        self.y += 22

    def boxes(self, step: Step, sites: Sites) -> None:
        """The parts of a step side by side, each with an arrow, and with its added norm where it has one."""
        count = len(step.names)
        whole = 2 * (RIGHT - CENTRE)
        width = min(LONE_WIDTH, (whole - BETWEEN * (count - 1)) / count)
        first = CENTRE - (count * width + BETWEEN * (count - 1)) / 2
        normed = [step.kind == "linear" and has_norm(name, sites) for name in step.names]
        top = self.y
        if count > 1:
            last = first + (count - 1) * (width + BETWEEN)
            self._line(f"M{first + width / 2} {top + 6} H{last + width / 2}")
            self._line(f"M{CENTRE} {top + 2} V{top + 6}")
        for number, (name, with_norm) in enumerate(zip(step.names, normed, strict=True)):
            left = first + number * (width + BETWEEN)
            y = top + GAP
            self._arrow(left + width / 2, top + (6 if count > 1 else 2), y)
            if with_norm:
                self._box(left + width / 2 - 30, y, 60, NORM_HEIGHT, "added", "norm")
                self._line(f"M{left + width / 2} {y + NORM_HEIGHT} v5")
                y += NORM_HEIGHT + 5
            elif any(normed):
                self._line(f"M{left + width / 2} {y} v{NORM_HEIGHT + 5}")
                y += NORM_HEIGHT + 5
            self._box(left, y, width, HEIGHT, step.kind, _short(name))
        self.y = top + GAP + HEIGHT + (NORM_HEIGHT + 5 if any(normed) else 0)

    def legend(self, kinds: Sequence[str]) -> None:
        self.y += 18
        for kind in kinds:
            self._box(LEFT, self.y, 22, 14, kind, "")
            self._label(LEFT + 32, self.y + 11, LEGEND[kind], INK, "start")
            self.y += 21

    def html(self, title: str) -> Html:
        style = f'font-family=\'{FONT_FAMILY}\' font-size="12.5" style="max-width: 100%; height: auto"'
        size = f'viewBox="0 0 {WIDTH} {self.y:.0f}" width="{WIDTH}"'
        body = f"<title>{escape(title)}</title>{ARROW_HEAD}{''.join(self.shapes)}"
        return Html(f'<div class="bitembed"><svg role="img" {size} {style}>{body}</svg></div>')

    def _box(self, x: float, y: float, width: float, height: float, kind: str, label: str) -> None:
        fill, line = FILL_AND_LINE[kind]
        self.shapes.append(
            f"<rect class='{kind}' x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height}' rx='5' "
            f"fill='{fill}' stroke='{line}'/>"
        )
        if label:
            self._label(x + width / 2, y + height / 2 + 4.5, label, INK)

    def _label(self, x: float, y: float, text: str, colour: str, anchor: str = "middle") -> None:
        self.shapes.append(
            f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}'>{escape(text)}</text>"
        )

    def _arrow(self, x: float, start: float, end: float) -> None:
        self._line(f"M{x:.1f} {start:.1f} V{end:.1f}", "marker-end='url(#bitembed-arrow)'")

    def _line(self, path: str, more: str = "") -> None:
        self.shapes.append(f"<path d='{path}' fill='none' stroke='{MUTED}' {more}/>")


def _short(name: str) -> str:
    """A name without the part of the block that the drawing shows anyway."""
    for prefix in ("attention.self.", "self_attn.", "mlp."):
        name = name.removeprefix(prefix)
    return name
