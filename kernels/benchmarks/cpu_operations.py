"""One linear layer on this CPU: ternary and native against float32, bfloat16 and int8, in GOPS and share of the peak.

    python kernels/benchmarks/cpu_operations.py --out kernels/benchmarks/results/cpu_operations.json

A product and a sum are two operations. "ternary" has everything in it: RMSNorm, quantization of the activations, product,
scales. "without norm" leaves the norm out. The peers multiply what is ready: `torch._int_mm` int8 codes, to int32 sums.
onnxruntime is in `cpu_texts.py`. The peak is the machine's dot-product instruction alone, measured in every round. Rounds
go through all backends in turn; medians and extremes are kept. Before a shape is timed, the native result is compared
with the reference's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from ctypes import c_void_p
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from torch.nn import functional as F

from bitembed_core.files import write_json
from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear import Norm
from bitembed_core.ops.ternary_linear.native import PanelWeight
from bitembed_core.ops.ternary_linear.reference import frozen_ternary_linear
from bitembed_core.ternary_packing import pack_ternary
from workbench.environment import environment

SHAPES = {  # (out, in)
    "Gemma3 query": (1024, 640),
    "Gemma3 key, value": (256, 640),
    "Gemma3 attention output": (640, 1024),
    "Gemma3 gate, up": (2048, 640),
    "Gemma3 down": (640, 2048),
    "Qwen3 query": (2048, 1024),
    "Qwen3 key, value": (1024, 1024),
    "Qwen3 attention output": (1024, 2048),
    "Qwen3 gate, up": (3072, 1024),
    "Qwen3 down": (1024, 3072),
    "MiniLM attention": (384, 384),
    "MiniLM up": (1536, 384),
    "MiniLM down": (384, 1536),
}
TOKENS = (1, 8, 32, 128, 512, 2048)
SAMPLE_SECONDS = QUIET_SECONDS = 0.02
Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"environment": environment(), "kernel": library.isa(), "threads": {}}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        peaks, rows = [], []
        for name, (out, features) in SHAPES.items():
            print(f"{threads} threads, {name}", file=sys.stderr, flush=True)
            for tokens in arguments.tokens:
                backends = prepare(tokens, features, out, threads)
                samples: dict[str, list[float]] = {backend: [] for backend in backends}
                for _ in range(arguments.rounds):
                    time.sleep(QUIET_SECONDS)
                    peaks.append(library.native().bitembed_peak_gops(threads))
                    for backend, run in backends.items():
                        samples[backend].append(2e-9 * tokens * out * features / seconds(run))
                for backend, gops in samples.items():
                    row = {"shape": name, "out": out, "in": features, "tokens": tokens, "backend": backend}
                    spread = {"gops": statistics.median(gops), "min": min(gops), "max": max(gops)}
                    rows.append({**row, **spread})
        peak = statistics.median(peaks)
        read = library.native().bitembed_read_gbs(threads)
        for row in rows:
            row["share_of_peak"] = row["gops"] / peak
        results["threads"][str(threads)] = {"peak_gops": peak, "read_gbs": read, "rows": rows}
    if arguments.out:
        write_json(arguments.out, results)
        plot(results).write_html(arguments.out.with_suffix(".html"), include_plotlyjs="cdn")
    for threads, result in results["threads"].items():
        print(f"{threads} threads, peak {result['peak_gops']:.0f} GOPS; share of it, ternary with norm")
        for name in SHAPES:
            shares = [r for r in result["rows"] if r["shape"] == name and r["backend"] == "ternary"]
            print(
                f"{name:26}" + "".join(f"{r['tokens']:7}: {100 * r['share_of_peak']:3.0f} %" for r in shares)
            )


def seconds(run: Run) -> float:
    """Of one call, once the threads of the backend before sleep and its own are awake and spread over the cores."""
    time.sleep(QUIET_SECONDS)
    repeated(run, QUIET_SECONDS)
    return repeated(run, SAMPLE_SECONDS)


def repeated(run: Run, at_least: float) -> float:
    """Seconds of one call, from as many as fill that time."""
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < at_least:
        run()
        calls += 1
    return elapsed / calls


def prepare(tokens: int, features: int, out: int, threads: int) -> dict[str, Run]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, features, generator=generator)
    codes = torch.randint(-1, 2, (out, features), generator=generator, dtype=torch.int8)
    norm = Norm(torch.rand(features, generator=generator) + 0.5, 1e-6)
    weight = PanelWeight(pack_ternary(codes), features)
    backends = {
        "ternary": native(x, weight, norm, threads),
        "ternary without norm": native(x, weight, None, threads),
    }
    y, expected = backends["ternary"](), frozen_ternary_linear(x, codes, torch.tensor(0.1), None, norm)
    if (F.cosine_similarity(y, expected, dim=1) < 0.9999).any():
        raise RuntimeError("the native result is wrong; nothing is timed")
    float_weight = codes.float()
    narrow_x, narrow_weight = x.bfloat16(), float_weight.bfloat16()
    x_codes = torch.randint(-127, 128, (tokens, features), generator=generator, dtype=torch.int8)
    return backends | {
        "torch float32": lambda: F.linear(x, float_weight),
        "torch bfloat16": lambda: F.linear(narrow_x, narrow_weight),
        "torch int8 (_int_mm)": lambda: torch._int_mm(x_codes, codes.t()),
    }


def native(x: torch.Tensor, weight: PanelWeight, norm: Norm | None, threads: int) -> Run:
    """The C call itself, as the encoder makes it."""
    y = torch.empty(len(x), weight.out_features)
    operands = (library.Linear * 1)(weight.operand(0.1, None, norm))
    outputs = (c_void_p * 1)(y.data_ptr())
    call = library.native().bitembed_linears

    def run() -> torch.Tensor:
        call(x.data_ptr(), len(x), operands, 1, outputs, 0, threads)
        return y

    return run


def plot(results: dict[str, Any]) -> go.Figure:
    threads, result = list(results["threads"].items())[-1]
    figure = go.Figure()
    for backend in dict.fromkeys(row["backend"] for row in result["rows"]):
        for group in ("Gemma3", "Qwen3", "MiniLM"):
            rows = [r for r in result["rows"] if r["backend"] == backend and r["shape"].startswith(group)]
            tokens = sorted({row["tokens"] for row in rows})
            means = [statistics.geometric_mean(r["gops"] for r in rows if r["tokens"] == t) for t in tokens]
            figure.add_scatter(
                x=tokens,
                y=means,
                name=f"{group}, {backend}",
                mode="lines+markers",
                visible=True if group == "Gemma3" else "legendonly",
                hovertemplate="%{x} tokens: %{y:.0f} GOPS<extra>%{fullData.name}</extra>",
            )
    figure.add_hline(
        y=result["peak_gops"], line_dash="dot", annotation_text="peak of the dot-product instruction"
    )
    figure.update_layout(
        title=f"Linear layers, {threads} threads of {results['environment']['cpu']}, {results['kernel']}",
        xaxis={"title": "tokens", "type": "log"},
        yaxis={"title": "GOPS, geometric mean over the model's shapes"},
    )
    return figure


if __name__ == "__main__":
    main()
