"""What quantization-aware training costs: a step of a ternary model over the same step in floating point.

    python kernels/benchmarks/training_step.py --out kernels/benchmarks/results/training_step_minilm.json

A step is forward, InfoNCE, backward and AdamW on real pairs of texts, which are read at two lengths; models and arithmetics
take turns. The ratio is between each model in the arithmetic in which it is faster.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from bitembed_core import BitEmbedder
from bitembed_core.files import write_json
from bitembed_core.losses import InfoNCE
from workbench.catalog.examples import load_examples
from workbench.catalog.models import load_embedder
from workbench.environment import environment
from workbench.recipes.forward import Encoder, Tokens, autocast
from workbench.recipes.optimizer import make_optimizer

LENGTHS = (32, 128)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--pairs", type=int, default=32, help="in a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    surroundings = environment()
    models = {name: load_embedder(arguments.backbone, trainable=True) for name in ("float", "ternary")}
    models["ternary"].convert("all", None)
    kernel = models["ternary"].kernel
    steps = {name: step_of(model) for name, model in models.items()}
    seconds: dict[tuple[int, str, str], list[float]] = {}
    tokens = {length: real_tokens(models["float"], arguments.pairs, length) for length in LENGTHS}
    for round_ in range(arguments.rounds + 1):
        for length in LENGTHS:
            for name, step in steps.items():
                for dtype, value in DTYPES.items():
                    taken = step(tokens[length], value)
                    if round_:  # the first one warms up
                        seconds.setdefault((length, name, dtype), []).append(taken)
    report = {
        "backbone": arguments.backbone,
        "environment": surroundings,
        "kernel": kernel,
        "pairs": arguments.pairs,
        "rounds": arguments.rounds,
        "lengths": {str(length): summary(length, seconds, tokens[length]) for length in LENGTHS},
    }
    if arguments.out:
        write_json(arguments.out, report)
    print(json.dumps({name: value for name, value in report.items() if name != "environment"}, indent=1))


def step_of(model: BitEmbedder) -> Callable[[Tokens, torch.dtype], float]:
    """A function that takes one step and returns its seconds."""
    model.model.eval().requires_grad_(True)
    model.model.get_input_embeddings().requires_grad_(False)
    encoder, optimizer = Encoder(model, None), make_optimizer(model.model, 1e-5, 0.01)
    loss = InfoNCE()

    def step(tokens: Tokens, dtype: torch.dtype) -> float:
        start = time.perf_counter()
        with autocast(torch.device("cpu"), dtype):
            embeddings_ND, _ = encoder([tokens])
        queries_BD, positives_BD = embeddings_ND.chunk(2)
        loss(queries_BD, positives_BD).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    return step


def real_tokens(model: BitEmbedder, pairs: int, length: int) -> Tokens:
    """The beginnings of 2 `pairs` passages, each of exactly `length` tokens: no padding is timed."""
    examples = load_examples("boolq-train", "pairs")[0].sample(40 * pairs, np.random.default_rng(0))
    tokens = model.tokenize([example.positive for example in examples], max_length=length)
    full_N = tokens["attention_mask"].sum(dim=1) == length
    return {name: tensor[full_N][: 2 * pairs] for name, tensor in tokens.items()}


def summary(
    length: int, seconds: dict[tuple[int, str, str], list[float]], tokens: Tokens
) -> dict[str, object]:
    """Medians and spread of the steps at `length`, tokens per second, and what a ternary step costs."""
    runs = {(name, dtype): row for (its_length, name, dtype), row in seconds.items() if its_length == length}
    medians = {key: statistics.median(row) for key, row in runs.items()}
    fastest = {
        name: min((d for n, d in medians if n == name), key=lambda dtype: medians[name, dtype])
        for name in ("float", "ternary")
    }
    return {
        "milliseconds": {
            f"{name} {dtype}": {
                "median": 1e3 * medians[name, dtype],
                "min": 1e3 * min(row),
                "max": 1e3 * max(row),
                "tokens_per_second": tokens["input_ids"].numel() / medians[name, dtype],
            }
            for (name, dtype), row in runs.items()
        },
        "faster": fastest,
        "ternary_over_float": medians["ternary", fastest["ternary"]] / medians["float", fastest["float"]],
    }


if __name__ == "__main__":
    main()
