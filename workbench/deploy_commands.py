"""What was done in the deployment notebook, as commands and as Python."""

import shlex
from pathlib import Path

from workbench.deploy import TEXT_SETS, DeployConfig


def bench_command(config: DeployConfig) -> str:
    """The command that measures the model."""
    lengths = ",".join(map(str, config.lengths))
    return _command(
        "bench", config, "--batch-size", config.batch_size, "--repeats", config.repeats, "--lengths", lengths
    )


def encode_command(config: DeployConfig) -> str:
    """The command that makes the index; its input is the file that the texts were read from."""
    written = config.input in TEXT_SETS and not Path(config.input).exists()
    source = Path(config.out) / f"{config.input}.jsonl" if written else config.input
    return _command(
        "encode",
        config,
        *("--batch-size", config.batch_size, "--precision", config.precision),
        *("--input", source, "--out", config.index_path),
    )


def search_command(config: DeployConfig) -> str:
    """The command that searches the index."""
    return _command(
        "search", config, "--index", config.index_path, "--query", config.query, "--top", config.top
    )


def export_command(config: DeployConfig, layout: str) -> str:
    """The command that writes the model in a layout."""
    words = ["bitembed", "export", "--model", config.model, "--layout", layout]
    words += ["--out", str(config.model_path(layout))]
    asked = layout == "packed" and config.token_table != "stored"
    return shlex.join(words + (["--token-table", config.token_table] if asked else []))


def engine_command(config: DeployConfig) -> str:
    """The command that writes the index for a search engine."""
    words = ("--index", config.index_path, "--engine", config.engine, "--out", config.engine_path)
    return shlex.join(["bitembed", "export-index", *map(str, words)])


def usage(config: DeployConfig) -> str:
    """A Python program that loads the model and the index and searches."""
    choices = {"device": config.device, "kernel": config.kernel if config.kernel != "auto" else None}
    arguments = "".join(f", {name}={value!r}" for name, value in choices.items() if value is not None)
    lines = [
        "from workbench.catalog.models import load_embedder",
        "from workbench.search import open_index",
        "",
        f"embedder = load_embedder({config.model!r}{arguments})",
        *([] if config.max_length is None else [f"embedder.max_length = {config.max_length}"]),
        f"index = open_index({str(config.index_path)!r})",
        f"queries = embedder.encode_query([{config.query!r}])",
        f"for hit in index.search(queries, top={config.top})[0]:",
        "    print(hit.score, hit.id, hit.text[:80])",
    ]
    return "\n".join(lines)


def _command(verb: str, config: DeployConfig, *words: object) -> str:
    given = {
        "--model": config.model,
        "--kernel": config.kernel if config.kernel != "auto" else None,
        "--device": config.device,
        "--max-length": config.max_length,
    }
    model = [str(word) for flag, value in given.items() if value is not None for word in (flag, value)]
    return shlex.join(["bitembed", verb, *model, *map(str, words)])
