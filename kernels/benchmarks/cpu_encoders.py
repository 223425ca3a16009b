"""Whole encoders on this CPU: ternary and native against the usual ways to run the same architecture.

    python kernels/benchmarks/cpu_encoders.py --model gemma3-270m --out kernels/benchmarks/results/cpu_encoders_gemma3.json
    python kernels/benchmarks/cpu_encoders.py --model qwen3-0.6b-random --out ...

Every backend is a process of its own that stays alive; rounds go through all of them in turn, so that a slow moment of
the machine meets everybody. Peers that are not installed (torchao, `llama-bench` on the PATH) are left out, and the
result says so. Token ids are random, the same for all. Tokens/s count real tokens, not padding. Before anything is
timed, native vectors have to be those of the reference encoder, bit for bit. The native model is loaded from its packed
folder. Memory is the largest resident size from the first call on: what loading took is left out.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.sentence_files import SentenceSettings
from bitembed_core.files import write_json
from bitembed_core.ops import library
from workbench.catalog.models import load_embedder
from workbench.environment import environment

CASES = {
    "128": [128],
    "512": [512],
    "16x32": [32] * 16,
    "mixed": [8 + (37 * i) % 121 for i in range(64)],
}
FIXED_SHAPES = ("128", "512")  # what compiled backends run: they would compile every other shape anew
BACKENDS = ("native", "int8", "float32", "bfloat16", "bfloat16 compiled", "torchao int8 compiled")
GGUF_TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "TQ2_0")
RANDOM_QWEN = "qwen3-0.6b-random"
REPEATS = 3  # in a round
ENOUGH_SECONDS = 1.0
BATCH = 16
CHECKED_TEXTS = 4  # of every case


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, help="any GGUF file of the model, to make the peers' types of")
    parser.add_argument("--out")
    parser.add_argument("--worker", choices=BACKENDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        work(arguments.worker, arguments.model)
        return
    surroundings = environment()
    backends = [name for name in BACKENDS if "torchao" not in name or find_spec("torchao")]
    workers, first = {}, {}
    for name in backends:  # one gets ready after another: together they would fight for the cores
        workers[name] = start(name, arguments)
        first[name] = ask(workers[name], None)
        print(f"{name} is ready: {first[name]}", file=sys.stderr, flush=True)
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in backends}
    llama: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = gguf_files(arguments.gguf, arguments.model, Path(scratch))
        for round_number in range(arguments.rounds):
            print(f"round {round_number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
            for name, worker in workers.items():
                for case in FIXED_SHAPES if "compiled" in name else CASES:
                    seconds[name].setdefault(case, []).extend(ask(worker, case)["seconds"])
            for name, file in files.items():
                for case, rates in llama_bench(file, arguments.threads).items():
                    llama.setdefault(name, {}).setdefault(case, []).extend(rates)
    closing = {name: ask(worker, "end") for name, worker in workers.items()}
    rates = {
        name: {case: [sum(CASES[case]) / s for s in runs] for case, runs in cases.items()}
        for name, cases in seconds.items()
    }
    rates |= {f"llama.cpp {name}": cases for name, cases in llama.items()}
    summary = {
        name: {
            case: {"median": statistics.median(runs), "min": min(runs), "max": max(runs)}
            for case, runs in cases.items()
        }
        for name, cases in rates.items()
    }
    results = {
        "model": arguments.model,
        "environment": surroundings,
        "threads": arguments.threads,
        "kernel": first["native"]["kernel"],
        "peak_gops": library.native().bitembed_peak_gops(arguments.threads),
        "cases": {name: {"texts": len(lengths), "tokens": sum(lengths)} for name, lengths in CASES.items()},
        "tokens_per_second": summary,
        "native_is_times": {
            name: {case: summary["native"][case]["median"] / row[case]["median"] for case in row}
            for name, row in summary.items()
        },
        "before_timing": first,
        "peak_resident_bytes": {name: closed["peak"] for name, closed in closing.items()},
        "not_run": sorted(({*BACKENDS} - {*backends}) | ({f"llama.cpp {t}" for t in GGUF_TYPES} - {*rates})),
    }
    if arguments.out:
        write_json(arguments.out, results)
    print(
        json.dumps(
            {key: results[key] for key in ("tokens_per_second", "native_is_times", "not_run")}, indent=1
        )
    )


def start(name: str, arguments: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--worker", name, "--model", arguments.model]
    command += ["--threads", str(arguments.threads)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(worker: subprocess.Popen[str], case: str | None) -> dict[str, Any]:
    """Have a worker run a case; without one, wait until it is ready."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    if case is not None:
        worker.stdin.write(case + "\n")
        worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError("a backend died; its message is above")


def work(name: str, model: str) -> None:
    """The worker's side: get ready, then time the cases that are asked for."""
    run, told = prepare(name, model)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    cases = [case for case in CASES if "compiled" not in name or case in FIXED_SHAPES]
    begin = time.perf_counter()
    run(token_lists(cases[0]))
    told["first_call_s"] = time.perf_counter() - begin
    for case in cases:
        run(token_lists(case))
    print(json.dumps(told), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        ids = token_lists(line.strip())
        seconds: list[float] = []
        while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
            begin = time.perf_counter()
            run(ids)
            seconds.append(time.perf_counter() - begin)
        print(json.dumps({"seconds": seconds}), flush=True)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM")).split()[1]
    print(json.dumps({"peak": 1024 * int(peak)}), flush=True)


def token_lists(case: str) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1000, 20000, (length,), generator=generator).tolist() for length in CASES[case]]


def prepare(name: str, model: str) -> tuple[Callable[[list[list[int]]], Any], dict[str, Any]]:
    embedder = load(model)
    if name in ("native", "int8"):
        embedder.convert()
        embedder = packed(embedder, name)
        told: dict[str, Any] = {"kernel": embedder.kernel}
        if name == "native":
            ids = [tokens for case in CASES for tokens in token_lists(case)[:CHECKED_TEXTS]]
            native = embedder._encode_ids(ids, BATCH)
            embedder._use_kernel("reference")
            if not np.array_equal(native, embedder._encode_ids(ids, BATCH)):
                raise RuntimeError("native vectors are not those of the reference encoder")
            told["texts_with_the_references_bits"] = len(ids)
            embedder = packed(embedder, name)
        return lambda ids: embedder._encode_ids(ids, BATCH), told
    network: nn.Module = embedder.model
    if name != "float32" and "torchao" not in name:
        network = network.to(torch.bfloat16)
    if "torchao" in name:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        network = network.to(torch.bfloat16)
        quantize_(network, Int8DynamicActivationInt8WeightConfig())
    if "compiled" in name:
        from torch._inductor import config as inductor

        inductor.freezing = True
        network = torch.compile(network)

    @torch.inference_mode()
    def run(ids: list[list[int]]) -> None:
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(ids), BATCH):
            rows = [ids[row] for row in order[start : start + BATCH]]
            longest = max(map(len, rows))
            input_ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            states = network(input_ids=input_ids, attention_mask=mask).last_hidden_state
            last = states[torch.arange(len(rows)), mask.sum(dim=1) - 1]
            F.normalize(last.float(), dim=-1)

    return run, {"kernel": name}


def packed(embedder: BitEmbedder, kernel: str) -> BitEmbedder:
    """The embedder as it comes back from a packed folder."""
    with tempfile.TemporaryDirectory() as folder:
        embedder.save_pretrained(folder, layout="packed")
        again = BitEmbedder.from_pretrained(folder, device="cpu", kernel=kernel)
        again.tokenize(["loaded now, since the folder goes"])
    return again


def load(model: str) -> BitEmbedder:
    """A catalog model, or RANDOM_QWEN: its architecture with random weights."""
    if model != RANDOM_QWEN:
        return load_embedder(model)
    from transformers import AutoModel, Qwen3Config

    tokenizer = load_embedder("gemma3-270m").tokenizer  # any will do: the ids that are timed are random
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return BitEmbedder(AutoModel.from_config(config).eval(), tokenizer, SentenceSettings("mean", 512))


def gguf_files(source: Path | None, model: str, scratch: Path) -> dict[str, Path]:
    """The model in the types that llama.cpp is compared in; none when it is not installed or has no source."""
    if not shutil.which("llama-bench") or not shutil.which("llama-quantize"):
        return {}
    if source is None and model == RANDOM_QWEN:
        source = scratch / "source.gguf"
        load(model).save_pretrained(source, layout="gguf")
    if source is None:
        return {}
    files = {}
    for kind in GGUF_TYPES:
        file = scratch / f"{kind}.gguf"
        command = ["llama-quantize", "--allow-requantize", source, file, kind]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            files[kind] = file
    return files


def llama_bench(file: Path, threads: int) -> dict[str, list[float]]:
    """Prompt tokens/s without embeddings, which would compute the language-model head for every token."""
    lengths = ",".join(FIXED_SHAPES)
    command = [
        "llama-bench",
        "-m",
        file,
        "-p",
        lengths,
        "-n",
        "0",
        "-t",
        threads,
        "-r",
        REPEATS,
        "-o",
        "json",
    ]
    done = subprocess.run(list(map(os.fspath, map(str, command))), capture_output=True, text=True, check=True)
    return {str(row["n_prompt"]): row["samples_ts"] for row in json.loads(done.stdout)}


if __name__ == "__main__":
    main()
