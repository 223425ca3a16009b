"""What makes a recipe an app: a form made from its configuration, plots that follow, errors in plain words.

The form hands its fields to the parser of the command line, so both doors take and refuse the same values.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from html import escape
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import marimo as mo
import plotly.graph_objects as go
import transformers

from workbench.config import as_text, entered_config
from workbench.figures.training import Record, loss_curves

Config = TypeVar("Config")
Item = TypeVar("Item")


def settings_form(
    config: Any, main: Sequence[str], button: str = "Train", folded: Sequence[str] | None = None
) -> Any:
    """A form over fields of the dataclass `config`: those named in `main`, and the `folded` ones, by default all others.

    Its value is None until the button is pressed; `chosen_settings` turns it into a configuration. Values
    that the configuration refuses are reported in the form.
    """

    def complaint(values: Any) -> str | None:
        try:
            _parse(config, values)
        except ValueError as error:
            return str(error)
        return None

    return settings_fields(config, main, folded).form(submit_button_label=button, validate=complaint)


def settings_fields(config: Any, main: Sequence[str], folded: Sequence[str] | None = None) -> Any:
    """The fields of `settings_form` without its button: every entry counts at once; see `entered_settings`."""
    hints = get_type_hints(type(config))
    by_name = {item.name: item for item in fields(config)}
    behind = [name for name in by_name if name not in main] if folded is None else folded
    inputs = {
        name: _input(hints[name], getattr(config, name), by_name[name].metadata.get("suggested", ()))
        for name in (*main, *behind)
    }
    page = _rows([by_name[name] for name in main])
    if behind:
        rows = _rows([by_name[name] for name in behind])
        page += f"<details><summary>{len(behind)} more settings</summary>{rows}</details>"
    return mo.Html(page).batch(**inputs)


def chosen_settings(config: Config, form: Any) -> Config:
    """`config` with what was entered in its form; `config` itself if the form was not submitted."""
    return config if form.value is None else _parse(config, form.value)


def entered_settings(config: Config, entered: Any) -> Config:
    """`config` with what was entered in its `settings_fields`; ValueError says what it refuses."""
    return _parse(config, entered.value)


def follow(
    records: Iterable[Item], show: Callable[[list[Item]], object], every_seconds: float = 3.0
) -> list[Item]:
    """Consume `records`; in a page, call `show` with all so far, once in `every_seconds` and at the end.

    In a script nothing is shown, since nobody looks; the recipes log their progress themselves.
    """
    history: list[Item] = []
    page = mo.app_meta().mode in ("edit", "run")
    shown = time.monotonic()
    for record in records:
        history.append(record)
        if page and time.monotonic() - shown > every_seconds:
            show(history)
            shown = time.monotonic()
    if page:
        show(history)
    return history


def plot(figure: go.Figure, on_click: Callable[[list[dict[str, Any]]], object] | None = None) -> Any:
    """`figure` in a page, without the buttons that would cover its title on a phone; touching it scrolls the page.

    `on_click` gets what was clicked, as marimo describes points: `x`, `y` and others.
    """
    figure.update_layout(dragmode=False)
    return mo.ui.plotly(figure, config={"displayModeBar": False}, on_change=on_click)


def side_by_side(items: Sequence[Any], narrowest: int = 340) -> Any:
    """Items in a row, or below each other where they would be narrower than so many pixels."""
    cells = "".join(f"<div style='min-width: 0'>{mo.as_html(item)}</div>" for item in items)
    columns = f"repeat(auto-fit, minmax(min(100%, {narrowest}px), 1fr))"
    return mo.Html(f"<div style='display: grid; gap: 8px; grid-template-columns: {columns}'>{cells}</div>")


def training_page(records: Sequence[Record]) -> Any:
    """The loss curves so far, under a line that says how far training is and how long it will take."""
    last = records[-1]
    recent = [float(record["seconds"]) for record in records if record["stage"] == last["stage"]][-20:]
    left = (int(last["steps"]) - int(last["step"])) * sum(recent) / len(recent)
    line = f"**{last['stage']}**: step {last['step']:,} of {last['steps']:,}"
    if left > 0:
        line += f", {last['tokens_per_second']:,.0f} tokens/s, about {duration(left)} left"
    return mo.vstack([mo.md(line), plot(loss_curves(records))])


@contextmanager
def errors_in_words() -> Iterator[None]:
    """In an app, end the cell with the error's message; a script and an edited notebook raise as usual."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        if mo.app_meta().mode != "run":
            raise
        mo.stop(True, mo.callout(mo.md(f"**{type(error).__name__}**: {escape(str(error))}"), kind="danger"))


def code_block(code: str, language: str = "bash") -> Any:
    """A command or program as the page shows it, to be copied."""
    return mo.md(f"```{language}\n{code}\n```")


def log_to_console() -> None:
    """Print the recipes' progress lines in a script, and silence the chatter of transformers."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if mo.app_meta().mode == "script":
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("bitembed").setLevel(logging.INFO)


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _input(hint: Any, value: Any, suggested: Sequence[str]) -> Any:
    if hint is bool:
        return mo.ui.checkbox(value)
    if get_origin(hint) is Literal or suggested:
        choices = map(str, suggested or get_args(hint))
        return mo.ui.dropdown(list(dict.fromkeys((*choices, str(value)))), value=str(value))
    return mo.ui.text(as_text(value), full_width=True)


def _rows(items: Sequence[Field[Any]]) -> str:
    """A row per field, which becomes two or three where the page is narrow."""
    row = "display: flex; flex-wrap: wrap; align-items: center; gap: 2px 14px; padding: 3px 0"
    return "".join(
        f"<div style='{row}'><span style='flex: 0 0 10.5em'><code>{item.name}</code></span>"
        f"<span style='flex: 0 1 14em'>{{{item.name}}}</span>"
        f"<span style='flex: 1 1 18em'>{_literal(item.metadata.get('help', ''))}</span></div>"
        for item in items
    )


def _literal(text: str) -> str:
    """`text` as it is after HTML has been read and fields in braces have been filled in."""
    return escape(text).replace("{", "{{").replace("}", "}}")


def _parse(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with the entered `values`; fields that were not in the form stay as they are."""
    old = {item.name: getattr(config, item.name) for item in fields(config)}  # type: ignore[arg-type]
    kept = {name: value if isinstance(value, bool) else as_text(value) for name, value in old.items()}
    entries = {  # a dropdown that Python has not read yet comes as a list
        name: value[0] if isinstance(value, list) else value for name, value in values.items()
    }
    return entered_config(type(config), kept | entries)
