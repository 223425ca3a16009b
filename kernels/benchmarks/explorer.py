"""How long the storage explorer takes to answer a moved control, and a query, over 50,000 vectors.

    python kernels/benchmarks/explorer.py --model minilm --out kernels/benchmarks/results/explorer.json

Random unit vectors in every format, through the functions that `notebooks/storage_explorer.py` calls: recall of all formats
and the figure of it after each control has been moved, and the neighbours of a query by five formats, encoding by the model
included. Medians and extremes of the rounds. What happens once, when a corpus is opened, is timed apart.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitembed_core.files import write_json
from bitembed_core.ops import library
from workbench.catalog.models import load_embedder
from workbench.cli import public_name
from workbench.environment import environment
from workbench.explorer.corpus import Corpus
from workbench.explorer.formats import FormatExplorer, Setting, format_names
from workbench.explorer.live import LiveCorpus
from workbench.figures.storage_explorer import recall_against_bytes
from workbench.figures.tables import neighbours_side_by_side

COMPARED = ("int8", "int4-fitted", "int2-fitted", "binary-fitted", "float16")
START = Setting("float32")
MOVES = {
    "scoring": replace(START, float_queries=False),
    "rescoring": replace(START, rescore="int8"),
    "rescoring with float32": replace(START, rescore="float32"),
    "oversampling": replace(START, rescore="int8", oversampling=16),
}
QUERY = "how do tides depend on the moon and the sun"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--documents", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    surroundings = environment()
    torch.set_num_threads(arguments.threads)
    embedder = load_embedder(arguments.model)
    began = time.perf_counter()
    live = synthetic(embedder, arguments.documents, arguments.queries)
    opened = time.perf_counter() - began
    rows = [
        timed(f"control: {name}", lambda like=like: move(live, live.precisions, like), arguments.rounds)
        for name, like in MOVES.items()
    ]
    half = [name for name in live.precisions if name.endswith(f"-{embedder.dimension // 2}d")]
    rows.append(timed("control: formats", lambda: move(live, half, START), arguments.rounds))
    for name, like in {"as stored": START, "rescored": MOVES["rescoring"]}.items():
        rows.append(timed(f"query, {name}", lambda like=like: ask(live, like), arguments.rounds))
    results = {
        "documents": arguments.documents,
        "queries": arguments.queries,
        "dimension": embedder.dimension,
        "formats": len(live.precisions),
        "model": public_name(arguments.model),
        "model_kernel": embedder.kernel,
        "search_kernel": f"native-{library.isa()}" if library.available() else "reference",
        "threads": arguments.threads,
        "environment": surroundings,
        "seconds_to_open": opened,
        "rows": rows,
    }
    write_json(arguments.out, results)
    print(f"opened in {opened:.1f} s")
    for row in rows:
        print(f"{1e3 * row['seconds']:8.1f} ms ({1e3 * row['max']:.1f} at most)  {row['what']}")


def synthetic(embedder: Any, documents: int, queries: int) -> LiveCorpus:
    """Random unit vectors as a corpus that has been opened."""
    generator = np.random.default_rng(0)
    x_ND, x_QD = (
        generator.standard_normal((count, embedder.dimension), dtype=np.float32)
        for count in (documents, queries)
    )
    formats = FormatExplorer(x_ND, x_QD)
    names = format_names(embedder.dimension)
    for step in formats.prepare(names):
        print(f"searched {step}", file=sys.stderr, flush=True)
    texts = [f"text {number}" for number in range(documents)]
    corpus = Corpus("random vectors", texts, [QUERY], formats.documents_ND, formats.queries_QD, embedder)
    return LiveCorpus(corpus, formats, tuple(names))


def move(live: LiveCorpus, precisions: Any, like: Setting) -> Any:
    """What the notebook does when a control was moved, up to the figure that is sent."""
    recalls = live.recalls(precisions, like)
    return recall_against_bytes(recalls, live.unrescored(recalls), 0.9, live.formats.top).to_json()


def ask(live: LiveCorpus, like: Setting) -> Any:
    """What it does with a query."""
    return neighbours_side_by_side(
        live.neighbours(QUERY, COMPARED, like), "float32", name_lost=True, characters=80
    )


def timed(what: str, run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """The first call too: nothing was warmed up before a person moves a control."""
    samples = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        samples.append(time.perf_counter() - begin)
    return {"what": what, "seconds": statistics.median(samples), "min": min(samples), "max": max(samples)}


if __name__ == "__main__":
    main()
