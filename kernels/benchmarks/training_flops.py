"""Does the count of operations in `workbench.recipes.cost` describe a real step? MiniLM in float32, on one core.

    python kernels/benchmarks/training_flops.py --out kernels/benchmarks/results/training_flops.json

The rate of a step, its operations by the formula over the processor time that it took, against that of a plain matrix
product of the model's own size: it must be lower, and not by much. Processor time, not the clock: the machine may be shared.
"""

import argparse
import time
from collections.abc import Callable

import torch

from bitembed_core.files import write_json
from workbench.catalog.models import load_embedder
from workbench.environment import environment
from workbench.recipes.cost import Shape, forward_flops

TEXTS, TOKENS, REPEATS = 16, 128, 3


def seconds(run: Callable[[], object]) -> float:
    """Processor time of the fastest of some repetitions, after one to warm up."""
    times = []
    for _ in range(REPEATS + 1):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    embedder = load_embedder("minilm", device="cpu", trainable=True)
    embedder.model.requires_grad_(True)
    ids_BT = torch.randint(1000, 2000, (TEXTS, TOKENS))
    batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}
    step_flops = 3 * forward_flops(Shape.of(embedder.model), [TOKENS] * TEXTS)
    step = seconds(lambda: embedder.embed(batch).sum().backward())
    x, w = torch.randn(TEXTS * TOKENS, 384), torch.randn(384, 1536)
    product = seconds(lambda: [x @ w for _ in range(20)])
    product_flops = 20 * 2 * x.shape[0] * w.numel()
    result = {
        "texts": TEXTS,
        "tokens": TOKENS,
        "step_gflop": step_flops / 1e9,
        "step_seconds": step,
        "step_gflops": step_flops / step / 1e9,
        "product_gflops": product_flops / product / 1e9,
        "environment": environment(),
    }
    write_json(arguments.out, result)
    print(result)


if __name__ == "__main__":
    main()
