"""Which ways of encoding give a model's vectors bit for bit, and how far the others are from them, text by text.

    python kernels/benchmarks/same_vectors.py --model <ternary model> --texts 40 --out ...

All are compared with the reference encoder, in plain torch operations: the native encoder on every instruction set of this
machine, on one thread and on several, with all texts together and with each alone; and, layer by layer through the
transformers model, the kernels "reference" and "int8", whose sums have another order. Texts are the first ones of every
offline task.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitembed_core import BitEmbedder
from bitembed_core.conversion import use_kernel
from bitembed_core.files import write_json
from bitembed_core.ops import library
from workbench.catalog.models import load_embedder
from workbench.catalog.task_data import evaluation_texts
from workbench.catalog.tasks import OFFLINE_SUITE, TASKS
from workbench.cli import public_name
from workbench.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=int, default=40, help="of every offline task")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    embedder = load_embedder(arguments.model)
    embedder.max_length = arguments.max_length
    texts = offline_texts(arguments.texts)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    expected_ND = with_kernel(embedder, "reference", texts)
    seconds["reference"] = time.perf_counter() - start
    rows: dict[str, Any] = {}
    for isa in library.supported_isas():
        with selected(isa):
            start = time.perf_counter()
            rows[f"native {isa}"] = compared(with_kernel(embedder, "native", texts), expected_ND)
            seconds[f"native {isa}"] = time.perf_counter() - start
    alone_ND = np.stack([embedder.encode(text, prompt="") for text in texts])
    rows["native, each text alone"] = compared(alone_ND, expected_ND)
    rows["native, the last text first"] = compared(embedder.encode(texts[::-1], prompt="")[::-1], expected_ND)
    threads = torch.get_num_threads()
    for count in (1, 5):
        torch.set_num_threads(count)
        rows[f"native, threads: {count}"] = compared(embedder.encode(texts, prompt=""), expected_ND)
    torch.set_num_threads(threads)
    for kernel in ("reference", "int8"):
        rows[f"layer by layer, {kernel}"] = compared(by_layers(embedder, kernel, texts), expected_ND)
    results = {
        "model": public_name(arguments.model),
        "texts": len(texts),
        "max_length": arguments.max_length,
        "kernel": f"native-{library.isa()}",
        "environment": environment(),
        "against_the_reference_encoder": rows,
        "seconds": seconds,
    }
    write_json(arguments.out, results)
    print(json.dumps(rows, indent=1))


def offline_texts(of_a_task: int) -> list[str]:
    found = (islice(evaluation_texts(TASKS[name].load()), of_a_task) for name in OFFLINE_SUITE)
    return list(dict.fromkeys(text for texts in found for text in texts if text.strip()))


def with_kernel(embedder: BitEmbedder, kernel: str, texts: list[str]) -> NDArray[np.float32]:
    embedder._use_kernel(kernel)
    return embedder.encode(texts, prompt="", show_progress_bar=True)


def by_layers(embedder: BitEmbedder, kernel: str, texts: list[str]) -> NDArray[np.float32]:
    use_kernel(embedder.model, kernel)
    with torch.inference_mode():
        vectors = [
            embedder.embed(embedder.tokenize([text], max_length=embedder.max_length)) for text in texts
        ]
    return torch.cat(vectors).numpy()


def compared(vectors: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    vectors_ND, expected_ND = vectors.astype(np.float64), expected.astype(np.float64)
    lengths_N = np.linalg.norm(vectors_ND, axis=1) * np.linalg.norm(expected_ND, axis=1)
    cosine_N = (vectors_ND * expected_ND).sum(axis=1) / lengths_N
    return {
        "same_bits": float((vectors_ND == expected_ND).all(axis=1).mean()),
        "least_cosine": float(cosine_N.min()),
        "median_cosine": float(np.median(cosine_N)),
    }


@contextmanager
def selected(isa: str) -> Iterator[None]:
    before = library.isa()
    library.select_isa(isa)
    try:
        yield
    finally:
        library.select_isa(before)


if __name__ == "__main__":
    main()
