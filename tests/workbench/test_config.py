"""The generated command line: types, defaults, errors, and whose arguments a notebook reads in which life."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from workbench.config import entered_config, option, parse_config, to_arguments


@dataclass(frozen=True)
class Settings:
    """Settings of a test."""

    name: str = option("x", "a name, 100 % of it")
    max_length: int = option(128, "tokens")
    rate: float = option(3e-5, "learning rate")
    freeze: bool = option(True, "keep the table")
    layer: int | None = option(None, "which layer")
    bits: tuple[int | str, ...] = option((1, 2), "bits")
    decay: Literal["cosine", "linear"] = option("cosine", "shape")
    sizes: tuple[int, ...] = option((), "sizes")

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length must be positive, not {self.max_length}")


def test_defaults_without_arguments() -> None:
    assert parse_config(Settings, []) == (Settings(), False)


def test_every_type() -> None:
    argv = "--name=a b|--max-length|7|--rate|1e-3|--no-freeze|--layer|4|--bits|4,int2-fitted,16|--decay|linear|--run"
    config, run_now = parse_config(Settings, argv.split("|"))
    assert config == Settings("a b", 7, 1e-3, False, 4, (4, "int2-fitted", 16), "linear")
    assert run_now


def test_none_and_empty_tuple() -> None:
    config, _ = parse_config(Settings, ["--layer", "none", "--bits="])
    assert config.layer is None
    assert config.bits == ()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-length", "seven"], "invalid int value: 'seven'"),
        (["--layer", "x"], "invalid int|none value: 'x'"),
        (["--sizes", "1,b"], "invalid int,int,... value"),
        (["--decay", "round"], "invalid choice: 'round'"),
        (["--max", "3"], "unrecognized arguments: --max 3"),
        (["--max-length", "0"], "max_length must be positive, not 0"),
    ],
)
def test_errors_name_the_argument(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_config(Settings, argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_text_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_config(Settings, ["--help"])
    shown = capsys.readouterr().out
    assert "Settings of a test." in shown
    assert "a name, 100 % of it [x]" in shown
    assert "bits [1,2]" in shown


@dataclass(frozen=True)
class Preset:
    """Some fields of Settings, and one of its own."""

    max_length: int = 32
    bits: tuple[int, ...] = (8,)
    elsewhere: str = "ignored"


def test_recipes_replace_defaults_and_arguments_win(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = {"short": Preset()}
    assert parse_config(Settings, [], recipes)[0] == Settings()
    config, _ = parse_config(Settings, ["--recipe", "short", "--bits", "4"], recipes)
    assert config == Settings(max_length=32, bits=(4,))
    with pytest.raises(SystemExit):
        parse_config(Settings, ["--recipe", "long"], recipes)
    assert "invalid choice: 'long'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_config(Settings, ["--recipe", "short", "--max-length", "0"], recipes)


def test_unknown_field_type_is_a_type_error() -> None:
    @dataclass(frozen=True)
    class Bad:
        table: complex = option(None, "no form")

    with pytest.raises(TypeError, match="no form on the command line"):
        parse_config(Bad, [])


def test_to_arguments_round_trip() -> None:
    config = Settings("-a", 7, 1e-3, False, 4, (4,), "linear")
    assert to_arguments(Settings()) == []
    assert parse_config(Settings, to_arguments(config))[0] == config


NOTEBOOK = """
import marimo

app = marimo.App()

@app.cell
def _():
    import logging
    from dataclasses import dataclass
    from workbench.config import option, parse_config

    @dataclass(frozen=True)
    class Tiny:
        steps: int = option(5, "steps")

    config, run_now = parse_config(Tiny)
    print("parsed", config.steps, run_now)
    logging.getLogger("bitembed").info("progress is shown")
    return

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_notebook.py"
    path.write_text(NOTEBOOK)
    return path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": str(root)},
        check=False,
    )


def test_script_reads_its_arguments_and_runs(notebook: Path) -> None:
    done = run(str(notebook), "--steps", "3")
    assert "parsed 3 True" in done.stdout
    assert done.stderr.count("progress is shown") == 1
    refused = run(str(notebook), "--steps", "x")
    assert refused.returncode != 0
    assert "invalid int value: 'x'" in refused.stderr


def test_app_run_by_another_program_takes_the_defaults(notebook: Path) -> None:
    folder = str(notebook.parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import tiny_notebook; tiny_notebook.app.run()"
    assert "parsed 5 False" in run("-c", code, "--steps", "3").stdout


def test_exported_page_reads_arguments_after_the_dashes(notebook: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    export = ["-m", "marimo", "export", "html", str(notebook), "-o", str(page), "--", "--steps", "4"]
    run(*export)
    assert "parsed 4 False" in page.read_text()
    run(*export, "--run")
    assert "parsed 4 True" in page.read_text()


def test_entries_of_a_form_are_read_like_the_command_line() -> None:
    entries = {"name": "--odd", "max_length": "7", "freeze": False, "layer": "none", "bits": "4,int2-fitted"}
    assert entered_config(Settings, entries) == Settings("--odd", 7, freeze=False, bits=(4, "int2-fitted"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"max_length": "0"}, "must be positive"),
        ({"decay": "round"}, "invalid choice"),
        ({"steps": "1"}, "steps"),
    ],
)
def test_refused_entries_raise(entry: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entered_config(Settings, entry)
