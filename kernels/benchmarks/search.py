"""Exact search over a million packed vectors on this CPU, against faiss.

    python kernels/benchmarks/search.py --out kernels/benchmarks/results/search.json

Random unit vectors; every way has all documents in memory in its own format and returns the best ten of every query. Ours
take queries rounded to int8 ("int8 queries") or as they are ("float queries": int8 candidates, compared again, exactly).
Before anything is timed, the answers of a part of the documents are compared with scores of everything. Ways take turns;
medians and extremes of the rounds are kept. faiss has to be installed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from bitembed_core import StorageFormat
from bitembed_core.files import write_json
from bitembed_core.ops import library
from bitembed_core.ops.packed_scores import PackedScores
from workbench.environment import environment

FORMATS = (
    *("int8", "int4-fitted", "int2-fitted", "ternary-fitted", "binary-fitted", "binary"),
    *("trellis-2bit", "trellis-1bit", "graded-1bit"),
)
CHECKED = 20_000
QUIET_SECONDS = 0.05  # until the threads of the way before sleep


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, nargs="+", default=[100, 1])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    surroundings = environment()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    generator = np.random.default_rng(0)
    documents = unit(generator, arguments.documents, arguments.dim)
    queries = unit(generator, max(arguments.queries), arguments.dim)
    ways = ours(documents, queries) | theirs(documents)
    del documents
    rows: list[dict[str, Any]] = []
    for count in arguments.queries:
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds + 1):  # the first round only warms up
            print(f"{count} queries, round {number}", file=sys.stderr, flush=True)
            for name, search in ways.items():
                time.sleep(QUIET_SECONDS)
                begin = time.perf_counter()
                search(queries[:count])
                if number:
                    samples[name].append(time.perf_counter() - begin)
        for name, taken in samples.items():
            row = {"queries": count, "way": name, "seconds": statistics.median(taken)}
            rows.append(row | {"min": min(taken), "max": max(taken)})
    results = {
        "documents": arguments.documents,
        "dim": arguments.dim,
        "top": 10,
        "threads": arguments.threads,
        "kernel": f"native-{library.isa()}",
        "faiss": faiss.__version__,
        "environment": surroundings,
        "rows": rows,
    }
    write_json(arguments.out, results)
    for row in rows:
        print(f"{row['queries']:5} queries {1e3 * row['seconds']:9.2f} ms  {row['way']}")
    print(json.dumps({"peak_gops": library.native().bitembed_peak_gops(arguments.threads)}))


def unit(generator: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = generator.standard_normal((n, dim), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def ours(documents: np.ndarray, queries: np.ndarray) -> dict[str, Callable[[np.ndarray], Any]]:
    found = {}
    for name in FORMATS:
        print(f"storing {name}", file=sys.stderr, flush=True)
        form = StorageFormat(name, documents.shape[1])
        part = PackedScores(form.encode(documents[:CHECKED]), "cpu")
        for integer in (True, False):
            best = part.best(queries, 10, integer)
            expected = part.scores(queries, integer=integer).sort(dim=1, descending=True).values[:, :10]
            if not torch.allclose(best.scores, expected, rtol=1e-5, atol=2e-6):
                raise RuntimeError(f"{name}: the search is wrong; nothing is timed")
        index = PackedScores(form.encode(documents), "cpu")
        found[f"{name}, int8 queries"] = lambda q, index=index: index.best(q, 10, integer=True)
        found[f"{name}, float queries"] = lambda q, index=index: index.best(q, 10)
    return found


def theirs(documents: np.ndarray) -> dict[str, Callable[[np.ndarray], Any]]:
    dim = documents.shape[1]
    found: dict[str, Callable[[np.ndarray], Any]] = {}
    for name, index in (
        ("faiss IndexFlatIP, float32", faiss.IndexFlatIP(dim)),
        (
            "faiss SQ 8 bits",
            faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT),
        ),
        (
            "faiss SQ 4 bits",
            faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_4bit, faiss.METRIC_INNER_PRODUCT),
        ),
        ("faiss RaBitQ", faiss.IndexRaBitQ(dim, faiss.METRIC_INNER_PRODUCT)),
    ):
        print(f"storing {name}", file=sys.stderr, flush=True)
        index.train(documents[:100_000])
        index.add(documents)
        found[name] = lambda q, index=index: index.search(q, 10)
    signs = faiss.IndexBinaryFlat(dim)
    signs.add(np.packbits(documents >= 0, axis=1))
    found["faiss IndexBinaryFlat, both sides binary"] = lambda q: signs.search(
        np.packbits(q >= 0, axis=1), 10
    )
    return found


if __name__ == "__main__":
    main()
