"""A command line made from a frozen dataclass: the dataclass is the only configuration there is.

    @dataclass(frozen=True)
    class DistillConfig:
        steps: int = option(1000, "optimiser steps")

    config, run_now = parse_config(DistillConfig)      # --steps 20 --run

The same call serves a notebook in all its lives. As a script, and as a page that marimo edits, exports or
serves, the arguments belong to the notebook. In Jupyter, under pytest, or when another program runs the
notebook, they belong to somebody else, and the defaults are taken.
"""

import argparse
import logging
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def option(default: Any, help: str, changes_result: bool = True, suggested: Sequence[str] = ()) -> Any:
    """A dataclass field with its default and the help text that the command line shows.

    `changes_result` is False for what only decides where results go and how often something is said or saved. An app
    offers the values `suggested` to choose from; the command line takes others too.
    """
    metadata = {"help": help, "changes_result": changes_result, "suggested": tuple(suggested)}
    return field(default=default, metadata=metadata)


def result_fields(config: Any) -> dict[str, Any]:
    """The fields of `config` on which its results depend, by name."""
    return {
        item.name: getattr(config, item.name)
        for item in fields(config)
        if item.metadata.get("changes_result", True)
    }


def parse_config(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    recipes: Mapping[str, Any] | None = None,
) -> tuple[Config, bool]:
    """Build a `config_class` from the command line; also say whether to start working at once.

    Field `max_length` becomes `--max-length`. Supported types: str, int, float, int | str, bool (`--x`,
    `--no-x`), Literal, `T | None` (the word `none` gives None) and `tuple[T, ...]` (values joined by commas). The second
    value is `--run` or `--no-run`, and defaults to True in a script, where nobody can press a button. There,
    progress is also logged to the terminal, since marimo's progress bars do not show.

    `argv` replaces the arguments found as the module describes. `recipes`, configurations by name, add `--recipe NAME`: its
    fields are the defaults then, as far as `config_class` has them. Wrong arguments, and values that the
    dataclass itself refuses with a ValueError, print the usage and exit with 2; in a page or an app, which an
    exit would take away, they raise ValueError instead.
    """
    caller = sys._getframe(1).f_globals.get("__file__")
    found, life = _notebook_arguments(caller)
    parser = _settings_parser(config_class, raises=life == "page")
    parser.add_argument(
        "--run",
        action=argparse.BooleanOptionalAction,
        default=life == "script",
        help="start at once instead of waiting for the button (the default in a script)",
    )
    arguments = found if argv is None else argv
    if recipes:
        parser.add_argument("--recipe", choices=list(recipes), help="take the defaults from these settings")
        name = parser.parse_known_args(arguments)[0].recipe
        if name is not None:
            parser.set_defaults(**_shared_fields(recipes[name], config_class))
    values = vars(parser.parse_args(arguments))
    values.pop("recipe", None)
    if life == "script":
        _log_to_terminal()
    run_now = values.pop("run")
    try:
        return config_class(**values), run_now
    except ValueError as error:
        parser.error(str(error))


def entered_config(config_class: type[Config], entries: Mapping[str, str | bool]) -> Config:
    """Build a `config_class` from what was entered in a form, by field: text as on the command line, or a tick.

    Fields without an entry have their defaults. ValueError says what the command line would say.
    """
    arguments = [
        (_flag(name) if entry else f"--no-{_flag(name)[2:]}")
        if isinstance(entry, bool)
        else f"{_flag(name)}={entry}"
        for name, entry in entries.items()
    ]
    return config_class(**vars(_settings_parser(config_class, raises=True).parse_args(arguments)))


def as_text(value: Any) -> str:
    """The value of a field as one types it: `none`, and commas between several values."""
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    return "none" if value is None else str(value)


def _settings_parser(config_class: type, raises: bool) -> "_Parser":
    parser = _Parser(
        description=(config_class.__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        raises=raises,
    )
    hints = get_type_hints(config_class)
    for item in fields(config_class):
        _add_argument(parser, item, hints[item.name])
    return parser


def _shared_fields(config: Any, config_class: type) -> dict[str, Any]:
    names = {item.name for item in fields(config_class)}
    return {item.name: getattr(config, item.name) for item in fields(config) if item.name in names}


def to_arguments(config: Any) -> list[str]:
    """The command-line arguments that make `config` again: the fields that differ from their defaults."""
    arguments: list[str] = []
    for item in fields(config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        flag = _flag(item.name)
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            arguments.append(f"{flag}={as_text(value)}")
    return arguments


def _notebook_arguments(caller: str | None) -> tuple[list[str], Literal["script", "page", "guest"]]:
    """The arguments meant for the notebook in file `caller`, and how that notebook is being run.

    An app run by another program (a test, `app.run()`) also says it is a script, so the program's own name
    decides.
    """
    try:
        import marimo

        mode = marimo.app_meta().mode
    except (ImportError, RuntimeError):
        mode = None
    if mode in ("edit", "run"):
        return sys.argv[1:], "page"
    if caller is not None and sys.argv and os.path.realpath(sys.argv[0]) == os.path.realpath(caller):
        return sys.argv[1:], "script"
    return [], "guest"


def _log_to_terminal() -> None:
    logger = logging.getLogger("bitembed")
    logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())


class _Parser(argparse.ArgumentParser):
    def __init__(self, *, raises: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.raises = raises

    def error(self, message: str) -> NoReturn:
        if self.raises:
            raise ValueError(message)
        super().error(message)


def _add_argument(parser: argparse.ArgumentParser, item: Field[Any], hint: Any) -> None:
    required = item.default is MISSING
    text = item.metadata.get("help", "")
    common: dict[str, Any] = {"dest": item.name, "required": required}
    if not required:
        text = f"{text} [{as_text(item.default)}]".strip()
        common["default"] = item.default
    common["help"] = text.replace("%", "%%")
    flag = _flag(item.name)
    if hint is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        return
    inner, optional = _strip_optional(hint)
    if get_origin(inner) is Literal and not optional:
        choices = get_args(inner)
        parser.add_argument(flag, choices=choices, type=type(choices[0]), **common)
        return
    convert = _converter(inner)
    if optional:
        convert = _Converter(f"{convert}|none", convert, optional=True)
    parser.add_argument(flag, type=convert, metavar=str(convert), **common)


@dataclass(frozen=True)
class _Converter:
    """A function from text to a value, with the name that usage and error messages give it."""

    name: str
    convert: Callable[[str], Any]
    optional: bool = False

    def __call__(self, text: str) -> Any:
        return None if self.optional and text == "none" else self.convert(text)

    def __repr__(self) -> str:
        return self.name


def _converter(hint: Any) -> _Converter:
    if hint == int | str:
        return _Converter("int|text", lambda text: int(text) if text.isdigit() else text)
    if hint in (str, int, float):
        return _Converter({str: "text", int: "int", float: "number"}[hint], hint)
    arguments = get_args(hint)
    if get_origin(hint) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        element = _converter(arguments[0])
        return _Converter(
            f"{element},{element},...", lambda text: tuple(map(element, text.split(","))) if text else ()
        )
    raise TypeError(f"a configuration field of type {hint} has no form on the command line")


def _strip_optional(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        others = [part for part in get_args(hint) if part is not type(None)]
        if len(others) == 1 and len(others) < len(get_args(hint)):
            return others[0], True
    return hint, False


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
