"""What the Jupyter notebooks draw with: a form of ipywidgets made from a configuration, and plots that follow a run.

As in the marimo apps, the form hands its fields to the parser of the command line. It has no button: the cell
below it reads what is entered when it is run, and the kernel's own stop button interrupts a training.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, fields
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import ipywidgets as widgets
import transformers
from IPython.display import DisplayHandle

from workbench.config import as_text, entered_config

Item = TypeVar("Item")

ROOT = Path(__file__).parents[2]

_NARROW = "minmax(120px, 200px) minmax(120px, 320px) 1fr"


def set_up() -> None:
    """Work in the repository's root, where paths such as runs/x mean what they mean to scripts and marimo notebooks.

    The chatter of transformers is silenced.
    """
    os.chdir(ROOT)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


class SettingsForm(widgets.VBox):
    """All fields of the dataclass `config`: those named in `main` in view, the others folded.

    `inputs` has the widget of each field. A value that the configuration refuses is reported under the form
    as soon as it is entered.
    """

    def __init__(self, config: Any, main: Sequence[str]) -> None:
        self._config_class = type(config)
        hints = get_type_hints(type(config))
        by_name = {item.name: item for item in fields(config)}
        self.inputs = {name: _input(hints[name], getattr(config, name)) for name in by_name}
        self.complaint = widgets.HTML()
        for entry in self.inputs.values():
            entry.observe(self._check, names="value")
        folded = [item for item in by_name.values() if item.name not in main]
        parts = [self._rows([by_name[name] for name in main])]
        if folded:
            parts.append(widgets.Accordion([self._rows(folded)], titles=(f"{len(folded)} more settings",)))
        super().__init__([*parts, self.complaint])

    @property
    def config(self) -> Any:
        """What is entered; ValueError for values that the configuration refuses."""
        return entered_config(self._config_class, {name: entry.value for name, entry in self.inputs.items()})

    def _check(self, _change: Any) -> None:
        try:
            _ = self.config
            self.complaint.value = ""
        except ValueError as error:
            self.complaint.value = f"<b>{escape(str(error))}</b>"

    def _rows(self, items: Sequence[Field[Any]]) -> widgets.GridBox:
        cells = []
        for item in items:
            name = widgets.HTML(f"<code>{item.name}</code>")
            cells += [name, self.inputs[item.name], widgets.HTML(escape(item.metadata.get("help", "")))]
        return widgets.GridBox(cells, layout={"grid_template_columns": _NARROW, "grid_gap": "2px 14px"})


def follow(
    records: Iterable[Item], draw: Callable[[list[Item]], object], every_seconds: float = 3.0
) -> list[Item]:
    """Consume `records`, and keep `draw` of all so far in the cell's output, drawn anew once in `every_seconds`.

    A kernel interrupt ends the loop as it ends any cell; a recipe can be resumed from its last checkpoint.
    """
    history: list[Item] = []
    output = DisplayHandle()
    drawn = time.monotonic()
    for record in records:
        history.append(record)
        if len(history) == 1:
            output.display(draw(history))
        elif time.monotonic() - drawn > every_seconds:
            output.update(draw(history))
            drawn = time.monotonic()
    if history:
        output.update(draw(history))
    return history


def _input(hint: Any, value: Any) -> Any:
    layout = {"width": "auto"}
    if hint is bool:
        return widgets.Checkbox(value, indent=False, layout=layout)
    if get_origin(hint) is Literal:
        return widgets.Dropdown(
            options=[str(choice) for choice in get_args(hint)], value=str(value), layout=layout
        )
    return widgets.Text(as_text(value), layout=layout)
