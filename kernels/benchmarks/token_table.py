"""What storing the embedding tables in 8 or 4 bits costs: the offline tasks with each table, relative to the model's own.

    python kernels/benchmarks/token_table.py --model runs/demo --out kernels/benchmarks/results/token_table_minilm.json
    python kernels/benchmarks/token_table.py --model gemma3-270m --pooling mean --cap 40 --max-length 64 --out ...

Only the tables differ between the columns; linears stay what they are in the model. Vectors are compared as float16 in the
tasks. "cosines" are those between embeddings with the model's own table and with the smaller one, over documents of the
offline retrieval tasks.
"""

import argparse
import logging
import sys
from itertools import islice

import numpy as np

from bitembed_core import BitEmbedder
from bitembed_core.embedding_table import quantize_tables, quantized_tables
from bitembed_core.pooling import POOLING_MODES
from workbench.catalog.models import load_embedder
from workbench.catalog.tasks import OFFLINE_SUITE, TASKS, RetrievalData
from workbench.cli import public_name
from workbench.evaluation import evaluate, retention_table, write_results

TEXTS_OF_A_TASK = 200


def load(arguments: argparse.Namespace) -> BitEmbedder:
    embedder = load_embedder(arguments.model, trainable=True)
    embedder.max_length = arguments.max_length
    embedder.settings.pooling = arguments.pooling or embedder.pooling
    return embedder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", default="offline")
    parser.add_argument("--cap", type=int, help="at most so many queries, documents and texts of a task")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--pooling", choices=POOLING_MODES, help="of a backbone that names none")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = load(arguments)
    table_bytes = {"float32": sum(p.nbytes for p in model.model.get_input_embeddings().parameters())}
    columns = {}
    for precision in ("int8", "int4"):
        column = load(arguments)
        quantize_tables(column.model, precision)
        columns[f"{precision} table"] = column
        largest = max(quantized_tables(column.model).values(), key=lambda table: table.table.nbytes)
        table_bytes[precision] = largest.table.nbytes + (0 if largest.scale is None else largest.scale.nbytes)
    texts = documents(TEXTS_OF_A_TASK)
    own_nd = model.encode(texts)
    cosines = {name: spread((own_nd * column.encode(texts)).sum(axis=1)) for name, column in columns.items()}
    results = evaluate(
        model,
        arguments.tasks,
        ["float16"],
        cap=arguments.cap,
        baselines=columns,
        name=public_name(arguments.model),
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    retention = {name: score / results["mean"]["float16"] for name, score in results["mean"].items()}
    write_results(
        arguments.out, results | {"retention": retention, "cosines": cosines, "table_bytes": table_bytes}
    )
    print(retention_table(results))
    print({name: round(100 * share, 2) for name, share in retention.items()}, cosines)


def documents(of_a_task: int) -> list[str]:
    """The first documents of each of the offline retrieval tasks."""
    retrieval = [TASKS[name].load() for name in OFFLINE_SUITE if TASKS[name].type == "retrieval"]
    return [
        f"{title} {text}".strip()
        for data in retrieval
        if isinstance(data, RetrievalData)
        for title, text in islice(data.corpus.values(), of_a_task)
    ]


def spread(cosines_n: np.ndarray) -> dict[str, float]:
    return {
        "texts": len(cosines_n),
        "least": float(cosines_n.min()),
        "one in a hundred": float(np.quantile(cosines_n, 0.01)),
        "median": float(np.median(cosines_n)),
    }


if __name__ == "__main__":
    main()
