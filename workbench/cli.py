"""`bitembed`: the verbs that are not notebooks. Training is done by the notebooks, which run as scripts too."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from workbench import index_commands
from workbench.command_line import (
    MODEL_HELP,
    add_command,
    load_model,
    model_arguments,
    must_be_writable,
    positive,
)

PRECISIONS_HELP = (
    "comma-separated: float32, float16, int8, int4, int2, binary; int4-, int2-, ternary- and binary-fitted; trellis-2bit, "
    "-1.5bit and -1bit; int8-128d and the like keep the first components only"
)
EXPORTS = ("release", "packed", "latent", "gguf")
TOKEN_TABLES = ("float16", "int8", "int4")
ROTATIONS = ("none", "random", "fitted", "principal")
GGUF_TYPES = ("i2_s", "tq2_0", "tq1_0", "f16")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error that the user can mend becomes one line on stderr and exit status 2."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bitembed").setLevel(logging.INFO)
    from workbench.catalog.packages import PackageUnavailable

    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except (ValueError, OSError, PackageUnavailable) as error:
        print(f"bitembed {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bitembed {arguments.command}: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line; every command says more under --help."""
    root = argparse.ArgumentParser(prog="bitembed", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = add_command(commands, evaluate, "score a model with mteb at every storage precision")
    model_arguments(command)
    command.add_argument(
        "--teacher", metavar="MODEL", help="also score this model; retention is relative to it"
    )
    command.add_argument(
        "--tasks",
        default="offline",
        help="comma-separated: offline (the suite, the default), names of the catalog, folders of tasks, or "
        "any task or benchmark of mteb, such as `MTEB(eng, v2)` (needs a connection)",
    )
    command.add_argument(
        "--precisions",
        default="float16,int8,int4,int2,binary",
        help=f"{PRECISIONS_HELP} (default: %(default)s)",
    )
    command.add_argument(
        "--cap", type=int, metavar="N", help="at most N queries, documents, pairs and texts of a local task"
    )
    command.add_argument(
        "--float-queries",
        action="store_true",
        help="store only the documents of retrieval tasks, not the queries",
    )
    command.add_argument(
        "--rescore",
        metavar="PRECISION",
        help="in retrieval, let this wider precision order what narrower ones find first",
    )
    command.add_argument(
        "--oversampling",
        type=positive,
        default=4,
        metavar="N",
        help="documents that --rescore looks at for each of ten hits (default: %(default)s)",
    )
    command.add_argument("--out", metavar="FILE", help="write the results as JSON")

    index_commands.add_to(commands)

    command = add_command(commands, export, "write a model in another layout")
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument(
        "--layout",
        required=True,
        choices=EXPORTS,
        help="release: the published form; packed: two bits a weight; latent: to train on; gguf: one file for runtimes",
    )
    command.add_argument(
        "--out", required=True, metavar="PATH", help="a folder; for gguf a folder or a .gguf file"
    )
    command.add_argument(
        "--token-table",
        choices=TOKEN_TABLES,
        help="of packed: how the embedding table is stored (default: as it is or was trained with, else float16)",
    )
    command.add_argument(
        "--gguf-type",
        choices=GGUF_TYPES,
        help="of gguf: i2_s for the published runtime (default), tq2_0 or tq1_0 for llama.cpp and models without "
        "projection norms, f16 for models in floating point",
    )
    command.add_argument(
        "--flatten",
        metavar="FILE",
        help="make the directions in which the first 4000 texts of this .jsonl or .parquet file differ more alike: few bits "
        "keep more then, above all graded-1bit after --rotation principal. Cosines change, and stored vectors have to be "
        "encoded again",
    )
    command.add_argument(
        "--centre",
        metavar="FILE",
        help="take most of the mean over the first 4000 texts of this .jsonl or .parquet file out of the vectors: rounding "
        "takes less of those of language models then. Cosines change, and stored vectors have to be encoded again",
    )
    command.add_argument(
        "--rotation",
        choices=ROTATIONS,
        help="turn the model's vectors so that rounding takes less of them, at random or fitted to texts, or so that the "
        "first components hold most (principal); none takes a rotation off. Stored vectors have to be encoded again",
    )
    command.add_argument(
        "--rotation-texts", metavar="FILE", help="of fitted and principal: a .jsonl or .parquet file of texts"
    )
    command.add_argument(
        "--rotation-keeps",
        type=positive,
        metavar="N",
        help="of principal: how many components will be stored, as in int8-128d",
    )

    command = add_command(commands, bench, "time a model on this machine")
    model_arguments(command, default="minilm")
    command.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="timed runs (default: %(default)s)"
    )
    command.add_argument(
        "--lengths",
        type=lambda text: tuple(map(positive, text.split(","))),
        default=(16, 64, 256),
        metavar="N,N",
        help="tokens per text; what is longer than the model reads is left out (default: 16,64,256)",
    )

    add_command(commands, doctor, "say what this machine has of what is needed")
    return root


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a model on real tasks with mteb's own runner, every precision through packed bytes: retrieval searches them."""
    from workbench.evaluation import evaluate, retention_table, write_results
    from workbench.evaluation.runner import storage_formats

    precisions = [name.strip() for name in arguments.precisions.split(",") if name.strip()]
    storage_formats(precisions, dimension=1)
    if arguments.out is not None:
        must_be_writable(Path(arguments.out))
    model = load_model(arguments)
    teacher = None
    if arguments.teacher is not None:
        teacher = load_model(arguments, arguments.teacher)
    results = evaluate(
        model,
        arguments.tasks,
        precisions,
        teacher,
        arguments.cap,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
        name=public_name(arguments.model),
        teacher_name=public_name(arguments.teacher) if teacher is not None else "teacher",
        batch_size=arguments.batch_size,
        float_queries=arguments.float_queries,
        rescore=arguments.rescore,
        oversampling=arguments.oversampling,
    )
    if arguments.out is not None:
        write_results(arguments.out, results)
    print(retention_table(results))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model in another layout."""
    from workbench.centring import CENTRE_TEXTS, take_out_mean
    from workbench.flattening import FLATTENING_TEXTS, flatten_spectrum
    from workbench.model_export import load_for_export, size_on_disk
    from workbench.rotation import ROTATION_TEXTS, rotate
    from workbench.search.text_files import read_texts

    embedder = load_for_export(arguments.model, arguments.layout)
    if arguments.flatten is not None:
        flatten_spectrum(
            embedder, [row.text for row in islice(read_texts(arguments.flatten), FLATTENING_TEXTS)]
        )
    if arguments.centre is not None:
        take_out_mean(embedder, [row.text for row in islice(read_texts(arguments.centre), CENTRE_TEXTS)])
    if arguments.rotation is not None:
        source = arguments.rotation_texts
        texts = [] if source is None else [row.text for row in islice(read_texts(source), ROTATION_TEXTS)]
        rotate(embedder, arguments.rotation, texts, kept=arguments.rotation_keeps)
    embedder.save_pretrained(
        arguments.out,
        layout=arguments.layout,
        token_table=arguments.token_table,
        gguf_type=arguments.gguf_type,
    )
    weights, whole = size_on_disk(arguments.out)
    print(
        f"{arguments.out}: {arguments.layout} layout, weights {weights / 1e6:.1f} MB, all {whole / 1e6:.1f} MB"
    )
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Time encoding, tokenisation included, at several text lengths, in batches and one text alone: the median of the
    repeats; and say what memory the model takes."""
    from workbench.environment import environment
    from workbench.memory import resident_bytes, weight_bytes
    from workbench.speed import measure_speed

    if arguments.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {arguments.repeats}")
    before = resident_bytes()
    embedder = load_model(arguments)
    here = environment()
    hardware = ", ".join(here["gpus"]) if embedder.device.type == "cuda" else here["cpu"]
    print(f"{public_name(arguments.model)}, kernel {embedder.kernel}, batch size {arguments.batch_size}")
    print(
        f"{hardware}, {here['threads']} threads, torch {here['packages']['torch']}, commit {here['commit']}"
    )
    print(f"tokens/text    texts/s   tokens/s  spread of {arguments.repeats} runs  ms for one text alone")
    speed = measure_speed(embedder, arguments.lengths, arguments.batch_size, arguments.repeats)
    for timing, alone in zip(*speed, strict=True):
        spread = f"{100 * timing.spread:.0f} %"
        print(
            f"{timing.tokens_per_text:11}  {timing.texts_per_second:9.1f}  {timing.tokens_per_second:9.0f}  "
            f"{spread:16}  {alone.ms_per_text:.1f}"
        )
    after = resident_bytes()
    held = f", {(after - before) / 1e6:.0f} MB resident" if before and after else ""
    print(f"memory: {weight_bytes(embedder.model) / 1e6:.1f} MB of weights{held}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Say what is here, what is missing (exit status 1) and what is absent but can be done without."""
    from workbench.doctor import examine, report

    checks = examine()
    print(report(checks))
    return int(any(check.state == "missing" for check in checks))


def public_name(source: str) -> str:
    """How a model is called in results: a hub id or catalog name as it is, a folder by its name, not its path."""
    path = Path(source)
    if not path.exists():
        return source
    path = path.resolve()
    return path.parent.name if path.name in {"model", "latent"} else path.name


if __name__ == "__main__":
    sys.exit(main())
