"""One linear layer on this CPU: ternary and native against float32, bfloat16 and int8, in GOPS and share of the peak.

    python kernels/benchmarks/cpu_operations.py --out kernels/benchmarks/results/cpu_operations.json

A product and a sum are two operations. "ternary" has everything in it: RMSNorm, quantization of the activations, product,
scales. "without norm" leaves the norm out. Both are called from C, so that no Python is timed, with the same x and y each
time. "one token" tells a third case, in GB/s: weights that no cache holds, layer after layer, against what the machine can
read. The peers multiply what is ready: `torch._int_mm` int8 codes, to int32 sums; they are called from Python, and that is
timed with them. onnxruntime is in `cpu_texts.py`. The peak is the machine's vector dot-product instruction alone,
measured in every round; where a matrix unit (AMX) multiplies, shares may exceed it, and those of the unit's own peak stand
beside them. Rounds go through all shapes and backends in turn, so that a disturbance of seconds meets one round; medians and
extremes are kept. Before a shape is timed, the native result is compared with the reference's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
from shapes import SHAPES
from torch.nn import functional as F

from bitembed_core.files import write_json
from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear import Norm
from bitembed_core.ops.ternary_linear.native import PanelWeight
from bitembed_core.ops.ternary_linear.reference import frozen_ternary_linear
from bitembed_core.ternary_packing import pack_ternary
from workbench.environment import environment

TOKENS = (1, 8, 32, 128, 512, 2048)
SAMPLE_SECONDS = QUIET_SECONDS = 0.02
COLD_BYTES = 128_000_000  # of weights, more than caches hold
Seconds = Callable[[], float]  # of one call


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
        cases = {
            (name, tokens): prepare(tokens, features, out, threads)
            for name, (out, features) in SHAPES.items()
            for tokens in arguments.tokens
        }
        from_memory = {name: one_token(out, features, threads) for name, (out, features) in SHAPES.items()}
        samples: dict[tuple[str, int, str], list[float]] = {}
        reading: dict[str, list[tuple[float, float]]] = {}
        peaks: dict[str, list[float]] = {}
        for number in range(arguments.rounds):
            for name, (out, features) in SHAPES.items():
                print(f"{threads} threads, round {number + 1}, {name}", file=sys.stderr, flush=True)
                reading.setdefault(name, []).append(from_memory[name]())
                for tokens in arguments.tokens:
                    time.sleep(QUIET_SECONDS)
                    for unit, gops in peaks_of(threads).items():
                        peaks.setdefault(unit, []).append(gops)
                    for backend, seconds in cases[name, tokens].items():
                        time.sleep(QUIET_SECONDS)  # until the threads of the backend before sleep
                        gops = 2e-9 * tokens * out * features / seconds()
                        samples.setdefault((name, tokens, backend), []).append(gops)
        rows: list[dict[str, Any]] = []
        for (name, tokens, backend), gops in samples.items():
            out, features = SHAPES[name]
            row = {"shape": name, "out": out, "in": features, "tokens": tokens, "backend": backend}
            rows.append({**row, "gops": statistics.median(gops), "min": min(gops), "max": max(gops)})
        cold = [{"shape": name, **reading_speed(rates)} for name, rates in reading.items()]
        medians = {unit: statistics.median(gops) for unit, gops in peaks.items()}
        for row in rows:
            row |= {f"share_of_{unit}": row["gops"] / peak for unit, peak in medians.items()}
        results["threads"][str(threads)] = {f"{unit}_gops": peak for unit, peak in medians.items()} | {
            "rows": rows,
            "one_token": cold,
        }
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
        print("one token, weights in memory: time over that of reading them")
        print("   ".join(f"{row['shape']} {row['times_the_limit']:.2f}" for row in result["one_token"]))


def peaks_of(threads: int) -> dict[str, float]:
    """GOPS of the vector dot-product instruction, and of the matrix unit's where that is in use."""
    peaks, used = {}, library.isa()
    if used == "amx_int8":
        peaks["matrix_peak"] = library.native().bitembed_peak_gops(threads)
        library.select_isa("avx512_vnni")
    peaks["peak"] = library.native().bitembed_peak_gops(threads)
    library.select_isa(used)
    return peaks


def one_token(out: int, features: int, threads: int) -> Callable[[], tuple[float, float]]:
    """What tells the GB/s of weights that a token's product reads from memory, and of reading alone."""
    codes = torch.randint(
        -1, 2, (out, features), generator=torch.Generator().manual_seed(0), dtype=torch.int8
    )
    packed, norm = pack_ternary(codes), Norm(torch.ones(features), 1e-6)
    bytes_of_one = PanelWeight(packed, features).panels.numel()
    weights = [PanelWeight(packed, features) for _ in range(COLD_BYTES // bytes_of_one)]
    seconds = native(torch.randn(1, features), weights, norm, threads)[1]

    def rates() -> tuple[float, float]:
        limit = library.native().bitembed_read_gbs(threads)
        return 1e-9 * bytes_of_one / seconds(), limit

    return rates


def reading_speed(rates_and_limits: list[tuple[float, float]]) -> dict[str, float]:
    rates, limits = zip(*rates_and_limits, strict=True)
    rate, limit = statistics.median(rates), statistics.median(limits)
    return {
        "read_gbs": rate,
        "min": min(rates),
        "max": max(rates),
        "limit_gbs": limit,
        "times_the_limit": limit / rate,
    }


def called_from_python(run: Callable[[], object]) -> Seconds:
    def seconds() -> float:
        repeated(run, QUIET_SECONDS)
        return repeated(run, SAMPLE_SECONDS)

    return seconds


def repeated(run: Callable[[], object], at_least: float) -> float:
    """Seconds of one call, from as many as fill that time."""
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < at_least:
        run()
        calls += 1
    return elapsed / calls


def prepare(tokens: int, features: int, out: int, threads: int) -> dict[str, Seconds]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, features, generator=generator)
    codes = torch.randint(-1, 2, (out, features), generator=generator, dtype=torch.int8)
    norm = Norm(torch.rand(features, generator=generator) + 0.5, 1e-6)
    weight = PanelWeight(pack_ternary(codes), features)
    y, with_norm = native(x, [weight], norm, threads)
    with_norm()
    expected = frozen_ternary_linear(x, codes, torch.tensor(0.1), None, norm)
    if (F.cosine_similarity(y, expected, dim=1) < 0.9999).any():
        raise RuntimeError("the native result is wrong; nothing is timed")
    float_weight = codes.float()
    narrow_x, narrow_weight = x.bfloat16(), float_weight.bfloat16()
    x_codes = torch.randint(-127, 128, (tokens, features), generator=generator, dtype=torch.int8)
    return {
        "ternary": with_norm,
        "ternary without norm": native(x, [weight], None, threads)[1],
        "torch float32": called_from_python(lambda: F.linear(x, float_weight)),
        "torch bfloat16": called_from_python(lambda: F.linear(narrow_x, narrow_weight)),
        "torch int8 (_int_mm)": called_from_python(lambda: torch._int_mm(x_codes, codes.t())),
    }


def native(
    x: torch.Tensor, weights: list[PanelWeight], norm: Norm | None, threads: int
) -> tuple[torch.Tensor, Seconds]:
    """The result of the layers, one after another, and what tells the seconds of one of them."""
    y = torch.empty(len(x), weights[0].out_features)
    operands = [weight.operand(0.1, None, norm) for weight in weights]
    time_linears = library.native().bitembed_time_linears
    one = 0.0

    def seconds() -> float:
        nonlocal one
        together = (library.Linear * len(operands))(*operands)
        arguments = (x.data_ptr(), len(x), together, len(operands), y.data_ptr())
        if not one:
            one = time_linears(*arguments, len(weights), threads)
        time_linears(*arguments, 1 + int(QUIET_SECONDS / one), threads)
        return time_linears(*arguments, max(len(weights), 1 + int(SAMPLE_SECONDS / one)), threads)

    return y, seconds


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
