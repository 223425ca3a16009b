"""The commands around an index of stored vectors: encode, search, export-index, load-index."""

import argparse
import time
from pathlib import Path

from workbench.command_line import add_command, load_model, model_arguments, must_be_writable, positive

ENGINE_NAMES = ("qdrant", "milvus", "lancedb", "pgvector", "vespa")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to a command line."""
    command = add_command(commands, encode, "embed the texts of files or a hub data set into a packed index")
    model_arguments(command)
    _encode_arguments(command)

    command = add_command(commands, search, "find the stored texts that are closest to a query")
    model_arguments(command)
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
        type=positive,
        default=4,
        metavar="N",
        help="texts that --rescore looks at for each hit (default: %(default)s)",
    )

    command = add_command(commands, export_index, "write an index as the files of another search engine")
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
    command.add_argument(
        "--out", required=True, metavar="DIR", help="a folder; an export that is there is replaced"
    )

    command = add_command(commands, load_index, "bring what export-index wrote into an engine")
    command.add_argument("--export", required=True, metavar="DIR", help="what export-index wrote")
    command.add_argument(
        "--into",
        required=True,
        metavar="TARGET",
        help="where the engine is: the URL of a Qdrant, Milvus or Vespa server, a PostgreSQL connection string, or the "
        "folder or file of LanceDB, Milvus Lite or a local Qdrant",
    )


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
        must_be_writable(Path(arguments.out))
    if arguments.device in (None, "cuda"):
        arguments.device = own_device() or arguments.device
    columns = None if arguments.metadata is None else _names(arguments.metadata)
    source = TextSource(arguments.input, arguments.text_column, columns)
    with launched_processes() as processes:
        if is_file and processes.count > 1:
            raise ValueError(f"several processes write into a folder, not into one file as {arguments.out}")
        embedder = load_model(arguments)
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
    embedder = load_model(arguments)
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
        type=positive,
        default=16384,
        metavar="N",
        help="of a folder: texts that each process writes at once (default: %(default)s)",
    )


def _names(text: str) -> tuple[str, ...]:
    """Of comma-separated columns; `none` is none."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _excerpt(text: str, length: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."
