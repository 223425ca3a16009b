"""What the commands of `bitembed` have in common: their arguments for a model, and checks before the work."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitembed_core import BitEmbedder

MODEL_HELP = "a model folder or run, a catalog name such as minilm, or a hub id"


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(run.__name__.replace("_", "-"), help=summary, description=run.__doc__)
    command.set_defaults(run=run)
    return command


def model_arguments(command: argparse.ArgumentParser, default: str | None = None) -> None:
    suffix = f" (default: {default})" if default else ""
    command.add_argument("--model", required=default is None, default=default, help=MODEL_HELP + suffix)
    command.add_argument("--device", help="cpu or cuda (default: cuda when there is some)")
    command.add_argument("--kernel", default="auto", help="ternary kernel (default: the best one here)")
    command.add_argument("--max-length", type=int, metavar="N", help="tokens of a text that are read")
    command.add_argument("--batch-size", type=positive, default=32, metavar="N", help="default: %(default)s")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def load_model(arguments: argparse.Namespace, source: str | None = None) -> "BitEmbedder":
    from workbench.catalog.models import load_embedder

    embedder = load_embedder(source or arguments.model, device=arguments.device, kernel=arguments.kernel)
    if arguments.max_length is not None:
        embedder.max_length = arguments.max_length
    return embedder


def must_be_writable(path: Path) -> None:
    """OSError before the work rather than after it."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"no permission in {folder}"
        raise OSError(f"cannot write {path}: {reason}")
