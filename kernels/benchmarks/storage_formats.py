"""What each way to store an embedding keeps of retrieval, at how many bytes a vector.

    python kernels/benchmarks/storage_formats.py --model minilm --out kernels/benchmarks/results/storage_formats_minilm.json

The model's float32 embeddings of the offline retrieval tasks are stored in every format; nothing is trained here. "float
queries" compares the query as it is with stored documents, "symmetric" with the query stored in the same way. Numbers are
nDCG@10 (gain over log2 of rank + 1), and the share of float32's as the model gives it, mean over the tasks. "centred"
vectors, on both sides, have most of the mean taken out, "flattened" ones went through `OutputMap.flattening`; both change
what float32 finds, which has rows of its own. What needs calibration (means, spectra, rotations, sentence-transformers'
int8) gets it from training text of the catalog, never from the tasks. faiss's formats are left out where it is not there.
Codes of a trellis depend on chance, the signs of axes or a random rotation: some ways are measured with six of them.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bitembed_core import StorageFormat
from bitembed_core.files import write_json
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.formats import SCHEMES
from bitembed_core.storage.rotation import Rotation
from workbench.catalog.examples import unlabelled_texts
from workbench.catalog.models import load_embedder
from workbench.catalog.tasks import TASKS, RetrievalData, capped
from workbench.cli import public_name
from workbench.environment import environment
from workbench.fingerprint import weights_fingerprint

# Tried with a share of the components; those of 2 bits or less then have the bytes of one bit for each.
SHORTENED = {
    "float16": 1 / 2,
    "int8": 1 / 2,
    "int4-fitted": 1 / 2,
    "int2-fitted": 1 / 2,
    "ternary-fitted": 5 / 8,
    "trellis-2bit": 1 / 2,
    "trellis-1.5bit": 2 / 3,
}
ALTERED = ("float32", "int4-fitted", "trellis-2bit", "int2-fitted", "trellis-1bit", "binary-fitted", "binary")
ON_PRINCIPAL_AXES = ("graded-1bit", "trellis-1bit")  # without shortening
TASK_NAMES = ("ret_boolq", "ret_fiqa_mini", "ret_consumer_contracts", "ret_debian", "ret_xsum")
CALIBRATION_TEXTS = 4000
CODINGS = 6
Matrix = np.ndarray


class Task(NamedTuple):
    queries: Matrix
    documents: Matrix
    relevant: list[dict[int, int]]  # of each query: row of a document -> gain


Step = Callable[[torch.Tensor], torch.Tensor]  # what vectors go through before they are stored
# Documents and queries -> scores (q, n).
Scorer = Callable[[Matrix, Matrix], Matrix]


class Way(NamedTuple):
    """One way to store documents."""

    name: str
    bytes_per_vector: float
    scores: Scorer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--max-documents", type=int, default=3000)
    parser.add_argument("--max-queries", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    surroundings = environment()
    embedder = load_embedder(arguments.model)
    embedder.max_length = min(embedder.max_length, arguments.max_length)
    tasks, cuts = {}, {}
    for name in TASK_NAMES:
        print(f"embedding {name}", file=sys.stderr, flush=True)
        limits = {"max_documents": arguments.max_documents, "max_queries": arguments.max_queries}
        data, cuts[name] = capped(TASKS[name].load(), **limits)
        assert isinstance(data, RetrievalData)
        tasks[name] = embedded(embedder, data)
    print("embedding calibration text", file=sys.stderr, flush=True)
    calibration = embedder.encode(unlabelled_texts("demo", CALIBRATION_TEXTS))
    dim = embedder.dimension
    table = {}
    for way in ways(dim, calibration):
        print(way.name, file=sys.stderr, flush=True)
        scores = {
            name: ndcg(way.scores(task.documents, task.queries), task.relevant)
            for name, task in tasks.items()
        }
        table[way.name] = {"bytes_per_vector": way.bytes_per_vector, "ndcg_at_10": scores}
    exact = table["float32"]["ndcg_at_10"]
    for row in table.values():
        row["mean"] = statistics.mean(row["ndcg_at_10"].values())
        row["share_of_float32"] = statistics.mean(
            score / exact[name] for name, score in row["ndcg_at_10"].items()
        )
    by_chance = {}
    for way, (name, steps) in codings(dim, calibration).items():
        print(f"{way}, {CODINGS} times", file=sys.stderr, flush=True)
        shares = []
        for seed in range(CODINGS):
            scores_of = stored(StorageFormat(name, dim), steps(seed), symmetric=False)
            shares.append(
                statistics.mean(
                    ndcg(scores_of(task.documents, task.queries), task.relevant) / exact[task_name]
                    for task_name, task in tasks.items()
                )
            )
        by_chance[way] = {
            "bytes_per_vector": StorageFormat(name, dim).bytes_per_vector,
            "mean_share_of_float32": statistics.mean(shares),
            "standard_error": statistics.stdev(shares) / math.sqrt(CODINGS),
            "shares_of_float32": shares,
        }
    results = {
        "model": public_name(arguments.model),
        "weights": weights_fingerprint(embedder),
        "rotation": embedder.rotation is not None,
        "dimension": dim,
        "max_length": embedder.max_length,
        "kernel": embedder.kernel,
        "environment": surroundings,
        "tasks": cuts,
        "calibration": f"{len(calibration)} training texts of the catalog",
        "formats": table,
        "float_queries_by_chance": by_chance,
    }
    write_json(arguments.out, results)
    for name, row in sorted(table.items(), key=lambda item: -item[1]["share_of_float32"]):
        print(f"{row['bytes_per_vector']:7.1f} bytes  {100 * row['share_of_float32']:6.2f} %  {name}")
    for name, row in by_chance.items():
        mean, error = row["mean_share_of_float32"], row["standard_error"]
        print(f"{row['bytes_per_vector']:7.1f} bytes  {100 * mean:6.2f} +- {100 * error:.2f} %  {name}")
    print(json.dumps(cuts))


def embedded(embedder: Any, data: RetrievalData) -> Task:
    ids = {document: row for row, document in enumerate(data.corpus)}
    texts = [f"{title} {text}".strip() for title, text in data.corpus.values()]
    documents = np.zeros((len(texts), embedder.dimension), dtype=np.float32)  # what is blank stays zero
    there = [row for row, text in enumerate(texts) if text]
    documents[there] = embedder.encode_document([texts[row] for row in there])
    relevant = [{ids[d]: gain for d, gain in data.qrels[query].items()} for query in data.queries]
    return Task(embedder.encode_query(list(data.queries.values())), documents, relevant)


def ndcg(scores_QN: Matrix, relevant: list[dict[int, int]]) -> float:
    """Mean nDCG@10; equal scores in the order of the documents."""
    found = []
    for scores, gains in zip(scores_QN, relevant, strict=True):
        best = np.argsort(-scores, kind="stable")[:10]
        got = sum(gains.get(int(row), 0) / math.log2(place + 2) for place, row in enumerate(best))
        ideal = sorted(gains.values(), reverse=True)[:10]
        found.append(got / sum(gain / math.log2(place + 2) for place, gain in enumerate(ideal)))
    return 100 * statistics.mean(found)


def ways(dim: int, calibration: Matrix) -> list[Way]:
    found = [Way("float32", 4.0 * dim, lambda d, q: q @ d.T)]
    fitted = Rotation.fit(torch.from_numpy(calibration))
    rotations = {"": None, ", fitted rotation": fitted, ", random rotation": Rotation.random(dim)}
    for name in ("float16", *SCHEMES):
        form = StorageFormat(name, dim)
        for suffix, rotation in rotations.items():
            if rotation is not None and form.bits > 2:
                continue
            for symmetric in (False, True):
                queries = "symmetric" if symmetric else "float queries"
                scorer = stored(form, [rotation] if rotation else [], symmetric)
                found.append(Way(f"{name}{suffix}, {queries}", form.bytes_per_vector, scorer))
    x = torch.from_numpy(calibration)
    centre, flattening, turned = Centre.of(x), OutputMap.flattening(x), Rotation.random(dim)
    altered: dict[str, Step] = {"centred": centre, "flattened": flattening}
    for done, step in altered.items():
        for name in ALTERED:
            form = StorageFormat(name, dim)
            for symmetric in (False, True):
                queries = "symmetric" if symmetric else "float queries"
                scorer = stored(form, [step, turned], symmetric)
                way = f"{name}, {done}, random rotation, {queries}"
                found.append(Way(way, form.bytes_per_vector, scorer))
    principal, principal_of_flat = Rotation.principal(x), Rotation.principal(flattening(x))
    for name in (*ON_PRINCIPAL_AXES, f"trellis-2bit-{dim // 2}d"):
        form = StorageFormat(name, dim)
        scorer = stored(form, [flattening, principal_of_flat], symmetric=False)
        way = f"{name}, flattened, principal axes, float queries"
        found.append(Way(way, form.bytes_per_vector, scorer))
        if name in ON_PRINCIPAL_AXES:
            scorer = stored(form, [principal], symmetric=False)
            found.append(Way(f"{name}, principal axes, float queries", form.bytes_per_vector, scorer))
    for name, share in SHORTENED.items():
        kept = int(share * dim)
        form = StorageFormat(f"{name}-{kept}d", dim)
        axes = {
            "": None,
            ", principal axes": principal,
            ", principal axes mixed": Rotation.principal(x, kept),
        }
        for suffix, rotation in axes.items():
            scorer = stored(form, [rotation] if rotation else [], symmetric=False)
            found.append(Way(f"{form.name}{suffix}, float queries", form.bytes_per_vector, scorer))
    return found + sentence_transformers_ways(dim, calibration) + faiss_ways(dim, calibration)


def codings(dim: int, calibration: Matrix) -> dict[str, tuple[str, Callable[[int], list[Step]]]]:
    """Ways of about one bit on principal axes whose codes depend on chance: the format, and what comes before with a seed.

    The axes have no sign of their own, and with other signs a trellis finds other codes, as good on the average.
    """
    x = torch.from_numpy(calibration)
    flattening = OutputMap.flattening(x)

    def signed(rotation: Rotation, seed: int) -> Rotation:
        signs = torch.randint(2, (dim,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
        return Rotation((rotation.matrix * signs).contiguous())

    principal, principal_of_flat = Rotation.principal(x), Rotation.principal(flattening(x))
    found: dict[str, tuple[str, Callable[[int], list[Step]]]] = {}
    for name in ("graded-1bit", f"trellis-2bit-{dim // 2}d"):
        found[f"{name}, principal axes"] = name, lambda seed: [signed(principal, seed)]
        found[f"{name}, flattened, principal axes"] = (
            name,
            lambda seed: [flattening, signed(principal_of_flat, seed)],
        )
    found["trellis-1bit, random rotation"] = "trellis-1bit", lambda seed: [Rotation.random(dim, seed)]
    found["trellis-1bit, flattened, random rotation"] = (
        "trellis-1bit",
        lambda seed: [flattening, Rotation.random(dim, seed)],
    )
    return found


def stored(form: StorageFormat, steps: Sequence[Step], symmetric: bool) -> Scorer:
    def scores(documents: Matrix, queries: Matrix) -> Matrix:
        for step in steps:
            documents, queries = (step(torch.from_numpy(x)).numpy() for x in (documents, queries))
        return form.encode(documents).scores(form.encode(queries) if symmetric else queries)

    return scores


def sentence_transformers_ways(dim: int, calibration: Matrix) -> list[Way]:
    from sentence_transformers.util import quantize_embeddings

    def binary(documents: Matrix, queries: Matrix) -> Matrix:
        bits = [
            np.unpackbits(quantize_embeddings(x, "ubinary"), axis=1)[:, :dim] for x in (documents, queries)
        ]
        documents_N, queries_Q = (2.0 * b - 1 for b in bits)
        return queries_Q @ documents_N.T

    def int8(documents: Matrix, queries: Matrix) -> Matrix:
        codes = [
            quantize_embeddings(x, "int8", calibration_embeddings=calibration).astype(np.float32)
            for x in (documents, queries)
        ]
        return codes[1] @ codes[0].T

    return [
        Way("sentence-transformers ubinary, symmetric", dim / 8, binary),
        Way("sentence-transformers int8, symmetric", float(dim), int8),
    ]


def faiss_ways(dim: int, calibration: Matrix) -> list[Way]:
    if not find_spec("faiss"):
        return []
    import faiss

    def searched(make: Callable[[], Any]) -> Scorer:
        def scores(documents: Matrix, queries: Matrix) -> Matrix:
            index = make()
            index.train(calibration)
            index.add(documents)
            best, rows = index.search(queries, 10)
            scores_QN = np.full((len(queries), len(documents)), -np.inf, dtype=np.float32)
            np.put_along_axis(scores_QN, rows, best, axis=1)
            return scores_QN

        return scores

    inner = faiss.METRIC_INNER_PRODUCT
    found = [
        Way(
            f"faiss SQ {name}, float queries",
            dim * bits / 8,
            searched(lambda kind=kind: faiss.IndexScalarQuantizer(dim, kind, inner)),
        )
        for name, bits, kind in (
            ("8 bits", 8, faiss.ScalarQuantizer.QT_8bit),
            ("4 bits", 4, faiss.ScalarQuantizer.QT_4bit),
        )
    ]
    rabitq = faiss.IndexRaBitQ(dim, inner)
    found.append(
        Way(
            "faiss RaBitQ, float queries",
            float(rabitq.sa_code_size()),
            searched(lambda: faiss.IndexRaBitQ(dim, inner)),
        )
    )
    return found


if __name__ == "__main__":
    main()
