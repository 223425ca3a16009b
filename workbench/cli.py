"""`bitembed`: the verbs that are not notebooks. Training is done by the notebooks, which run as scripts too."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitembed_core import BitEmbedder

MODEL_HELP = "a model folder or run, a catalog name such as minilm, or a hub id"
PRECISIONS_HELP = (
    "comma-separated: float32, float16, int8, int4, int2, binary, and int4-, int2-, ternary- and binary-fitted; "
    "int8-128d and the like keep the first components only"
)
EXPORTS = ("release", "packed", "latent", "gguf")
ENGINE_NAMES = ("qdrant", "milvus", "lancedb", "pgvector", "vespa")
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

    command = _command(commands, evaluate, "score a model with mteb at every storage precision")
    _model_arguments(command)
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
        type=_positive,
        default=4,
        metavar="N",
        help="documents that --rescore looks at for each of ten hits (default: %(default)s)",
    )
    command.add_argument("--out", metavar="FILE", help="write the results as JSON")

    command = _command(commands, encode, "embed the texts of files or a hub data set into a packed index")
    _model_arguments(command)
    _encode_arguments(command)

    command = _command(commands, search, "find the stored texts that are closest to a query")
    _model_arguments(command)
    command.add_argument("--index", required=True, metavar="PATH", help="what encode wrote")
    command.add_argument("--query", required=True, action="append", help="what to look for; may be repeated")
    command.add_argument(
        "--top", type=int, default=10, metavar="N", help="hits per query (default: %(default)s)"
    )
    command.add_argument(
        "--approximate",
        metavar="ENGINE[:KIND]",
        help="do not compare with every text: faiss, usearch, or with a kind such as faiss:IVF256,SQ8, faiss:BHNSW32, "
        "usearch:b1; built and saved beside the index where it is missing; scores stay exact",
    )
    command.add_argument(
        "--rescore",
        metavar="PATH",
        help="a wider index of the same texts, which decides among the best of --index",
    )
    command.add_argument(
        "--oversampling",
        type=_positive,
        default=4,
        metavar="N",
        help="texts that --rescore looks at for each hit (default: %(default)s)",
    )

    command = _command(commands, export, "write a model in another layout")
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
        help="of packed: how the embedding table is stored (default: float16)",
    )
    command.add_argument(
        "--gguf-type",
        choices=GGUF_TYPES,
        help="of gguf: i2_s for the published runtime (default), tq2_0 or tq1_0 for llama.cpp and models without "
        "projection norms, f16 for models in floating point",
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
        type=_positive,
        metavar="N",
        help="of principal: how many components will be stored, as in int8-128d",
    )

    _engine_commands(commands)

    command = _command(commands, bench, "time a model on this machine")
    _model_arguments(command, default="minilm")
    command.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="timed runs (default: %(default)s)"
    )

    _command(commands, doctor, "say what this machine has of what is needed")
    return root


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a model on real tasks with mteb's own runner, every precision through packed bytes: retrieval searches them."""
    from workbench.evaluation import evaluate, retention_table, write_results
    from workbench.evaluation.runner import storage_formats

    precisions = [name.strip() for name in arguments.precisions.split(",") if name.strip()]
    storage_formats(precisions, dimension=1)
    if arguments.out is not None:
        _must_be_writable(Path(arguments.out))
    model = _load(arguments)
    teacher = None
    if arguments.teacher is not None:
        teacher = _load(arguments, arguments.teacher)
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


def encode(arguments: argparse.Namespace) -> int:
    """Embed texts as documents: vectors in packed codes; ids, texts and metadata beside them.

    On many processes: accelerate launch --multi_gpu --num_processes N -m workbench.cli encode ...
    """
    from workbench.evaluation.runner import storage_formats
    from workbench.search import TextSource, encode_file, encode_to_folder
    from workbench.search.encode_folder import Encoded
    from workbench.search.processes import launched_processes, own_device

    storage_formats([arguments.precision], dimension=1)
    is_file = bool(Path(arguments.out).suffix)
    if is_file:
        _must_be_writable(Path(arguments.out))
    if arguments.device in (None, "cuda"):
        arguments.device = own_device() or arguments.device
    columns = None if arguments.metadata is None else _names(arguments.metadata)
    source = TextSource(arguments.input, arguments.text_column, columns)
    with launched_processes() as processes:
        if is_file and processes.count > 1:
            raise ValueError(f"several processes write into a folder, not into one file as {arguments.out}")
        embedder = _load(arguments)
        if is_file:
            began = time.monotonic()
            index = encode_file(
                embedder, source, arguments.out, arguments.precision, batch_size=arguments.batch_size
            )
            done = Encoded(index.format, len(index), len(index), time.monotonic() - began)
        else:
            done = encode_to_folder(
                embedder,
                source,
                arguments.out,
                arguments.precision,
                batch_size=arguments.batch_size,
                shard_size=arguments.shard_size,
                processes=processes,
            )
    if processes.rank == 0:
        form = done.format
        print(
            f"{done.texts} texts as {form.name}, {form.bytes_per_vector} bytes each, "
            f"{done.texts * form.bytes_per_vector / 1e6:.2f} MB in {arguments.out} (kernel {embedder.kernel}; "
            f"{done.new} now, {done.new / done.seconds:.1f} texts/s)"
        )
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Search: the query stays in floating point, the index is read as it is stored, by default all of it."""
    from workbench.search import Rescored, VectorSearch, hits, open_index, same_texts

    index = open_index(arguments.index, arguments.approximate)
    searched: VectorSearch = index
    if arguments.rescore is not None:
        wide = open_index(arguments.rescore)
        searched = Rescored(index, wide, arguments.oversampling, same_texts(index.ids(), wide.ids()))
    embedder = _load(arguments)
    if embedder.dimension != index.dimension:
        raise ValueError(
            f"{arguments.index} holds vectors of {index.dimension} dimensions, {arguments.model} makes "
            f"{embedder.dimension}: use the model that encoded it"
        )
    found = searched.best(embedder.encode_query(arguments.query), arguments.top)
    for query, texts in zip(arguments.query, hits(index, found), strict=True):
        print(query)
        for rank, hit in enumerate(texts, start=1):
            print(f"{rank:3}  {hit.score:.4f}  {hit.id}  {_excerpt(hit.text)}")
            if hit.metadata:
                print("     " + ", ".join(f"{name}={_excerpt(str(it))}" for name, it in hit.metadata.items()))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model in another layout."""
    from workbench.catalog.models import load_embedder
    from workbench.rotation import ROTATION_TEXTS, rotate
    from workbench.search.text_files import read_texts

    embedder = load_embedder(arguments.model, device="cpu", trainable=True)
    if not embedder.is_ternary and arguments.layout not in ("release", "gguf"):
        raise ValueError(
            f"{arguments.model} is a floating-point model, which has no {arguments.layout} layout; "
            "convert it first (notebooks/convert.py)"
        )
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
    out = Path(arguments.out)
    files = [out] if out.is_file() else sorted(file for file in out.rglob("*") if file.is_file())
    weights = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".gguf"))
    whole = sum(file.stat().st_size for file in files)
    print(
        f"{arguments.out}: {arguments.layout} layout, weights {weights / 1e6:.1f} MB, all {whole / 1e6:.1f} MB"
    )
    return 0


def export_index(arguments: argparse.Namespace) -> int:
    """Write an index as the files of Qdrant, Milvus, LanceDB, PostgreSQL with pgvector, or Vespa."""
    from workbench.search import open_index
    from workbench.search.engines import export_index

    index = open_index(arguments.index)
    export = export_index(index, arguments.engine, arguments.out, arguments.vectors, arguments.name)
    print(f"{arguments.out}: {export.rows} texts for {export.engine}, vectors as {export.type}")
    return 0


def load_index(arguments: argparse.Namespace) -> int:
    """Bring an exported index into an engine; texts that are there already are replaced."""
    from workbench.search.engines import load_export

    export = load_export(arguments.export, arguments.into)
    print(f"{export.rows} texts are in {export.engine} under the name {export.name}")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """Time encoding, tokenisation included, at several text lengths: the median of the repeats."""
    from workbench.environment import environment
    from workbench.evaluation.speed import time_encoding

    if arguments.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {arguments.repeats}")
    embedder = _load(arguments)
    here = environment()
    hardware = ", ".join(here["gpus"]) if embedder.device.type == "cuda" else here["cpu"]
    print(f"{public_name(arguments.model)}, kernel {embedder.kernel}, batch size {arguments.batch_size}")
    print(
        f"{hardware}, {here['threads']} threads, torch {here['packages']['torch']}, commit {here['commit']}"
    )
    print(f"{'tokens/text':>11}  {'texts/s':>9}  {'tokens/s':>9}  spread of {arguments.repeats} runs")
    for timing in time_encoding(embedder, batch_size=arguments.batch_size, repeats=arguments.repeats):
        print(
            f"{timing.tokens_per_text:11}  {timing.texts_per_second:9.1f}  {timing.tokens_per_second:9.0f}  "
            f"{100 * timing.spread:.0f} %"
        )
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


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    command = commands.add_parser(run.__name__.replace("_", "-"), help=summary, description=run.__doc__)
    command.set_defaults(run=run)
    return command


def _engine_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = _command(commands, export_index, "write an index as the files of another search engine")
    command.add_argument("--index", required=True, metavar="PATH", help="what encode wrote")
    command.add_argument("--engine", required=True, choices=ENGINE_NAMES)
    command.add_argument(
        "--vectors",
        default="float16",
        choices=("float16", "float32", "packed"),
        help="values, for an engine that quantizes by itself; or packed: our codes, where the engine has a type for them "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--name", default="texts", help="of the table, collection or schema (default: %(default)s)"
    )
    command.add_argument("--out", required=True, metavar="DIR", help="a folder, which is replaced")

    command = _command(commands, load_index, "bring what export-index wrote into an engine")
    command.add_argument("--export", required=True, metavar="DIR", help="what export-index wrote")
    command.add_argument(
        "--into",
        required=True,
        metavar="TARGET",
        help="where the engine is: the URL of a Qdrant, Milvus or Vespa server, a PostgreSQL connection string, or the "
        "folder or file of LanceDB, Milvus Lite or a local Qdrant",
    )


def _model_arguments(command: argparse.ArgumentParser, default: str | None = None) -> None:
    suffix = f" (default: {default})" if default else ""
    command.add_argument("--model", required=default is None, default=default, help=MODEL_HELP + suffix)
    command.add_argument("--device", help="cpu or cuda (default: cuda when there is some)")
    command.add_argument("--kernel", default="auto", help="ternary kernel (default: the best one here)")
    command.add_argument("--max-length", type=int, metavar="N", help="tokens of a text that are read")
    command.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="default: %(default)s")


def _encode_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input",
        required=True,
        metavar="SOURCE",
        help="rows with text, id?, title?: a .jsonl, .jsonl.gz or .parquet file, a folder or a pattern of several, or "
        "hub:owner/name[@configuration][:split], which is streamed",
    )
    command.add_argument(
        "--text-column", default="text", metavar="NAME", help="where the text is (default: %(default)s)"
    )
    command.add_argument(
        "--metadata",
        metavar="NAMES",
        help="comma-separated: the columns that are kept beside the texts, or none (default: all other ones, but for "
        "lists, objects and bytes)",
    )
    command.add_argument("--precision", default="int8", help="how vectors are stored (default: %(default)s)")
    command.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help=".safetensors file, with the texts in a .parquet beside it; or a folder, in which an interrupted call goes on "
        "and many processes can work",
    )
    command.add_argument(
        "--shard-size",
        type=_positive,
        default=16384,
        metavar="N",
        help="of a folder: texts that each process writes at once (default: %(default)s)",
    )


def _names(text: str) -> tuple[str, ...]:
    """Of comma-separated columns; `none` is none."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _load(arguments: argparse.Namespace, source: str | None = None) -> "BitEmbedder":
    from workbench.catalog.models import load_embedder

    embedder = load_embedder(source or arguments.model, device=arguments.device, kernel=arguments.kernel)
    if arguments.max_length is not None:
        embedder.max_length = arguments.max_length
    return embedder


def _must_be_writable(path: Path) -> None:
    """OSError before the work rather than after it."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(folder, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"no permission in {folder}"
        raise OSError(f"cannot write {path}: {reason}")


def _excerpt(text: str, length: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


if __name__ == "__main__":
    sys.exit(main())
