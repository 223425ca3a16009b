"""Triton kernels on a CUDA card: checked first, then measured against what is used without them.

    python kernels/benchmarks/gpu.py --out kernels/benchmarks/results/gpu.json
    TRITON_INTERPRET=1 python kernels/benchmarks/gpu.py --dry-run

Four parts, minutes together: linear layers (two-bit weights, int8 tokens) against bfloat16 and _int_mm, in CUDA graphs;
encoding with the shapes of Qwen3-0.6B and Gemma3-270M against bfloat16, eager and compiled; a training step of stages 1
and 2 against the same step without quantization; losses in blocks against whole score matrices. Weights are random.
`--dry-run` goes through all of it with small sizes on the CPU, in Triton's interpreter, and measures nothing worth keeping.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES
from torch.nn import functional as F
from transformers import AutoModel, Gemma3TextConfig, PreTrainedModel, Qwen3Config

from bitembed_core.attention import AttentionStates
from bitembed_core.conversion import convert_to_bitnet, freeze, use_kernel
from bitembed_core.files import write_json
from bitembed_core.losses import AttentionRelationDistillation, EmbeddingBatch, InfoNCE, MultiPrecisionLoss
from bitembed_core.losses.candidates import candidate_scores
from bitembed_core.ops import gpu
from bitembed_core.ops.encoder.fused import FusedEncoder
from bitembed_core.ops.norm_quantize.triton import norm_quantize
from bitembed_core.ops.ternary_linear.planar import pack_planes
from bitembed_core.ops.ternary_linear.product import ternary_product
from bitembed_core.ops.tuning import tile_for
from bitembed_core.pooling import pool
from workbench.environment import environment
from workbench.recipes.objective import Objective

LINEARS = {name: shape for name, shape in SHAPES.items() if not name.startswith("MiniLM")}
TOKENS = (1, 16, 64, 256, 1024, 4096, 16384)
# Texts and length at which bfloat16 is compiled too, into CUDA graphs, which takes most of the benchmark's time.
COMPILED = ((1, 32), (32, 128))
QWEN3 = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
)
GEMMA3 = Gemma3TextConfig(
    vocab_size=262144,
    hidden_size=640,
    intermediate_size=2048,
    num_hidden_layers=18,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=256,
)
CALLS = 20  # of a layer in a CUDA graph
Run = Callable[[], Any]
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--parts", nargs="+", default=["linears", "encoders", "training", "losses"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not (arguments.dry_run and gpu.interpreting()) and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run with TRITON_INTERPRET=1 runs on the CPU")
    bench = Bench(arguments.dry_run)
    parts = {
        "linears": bench.linears,
        "encoders": bench.encoders,
        "training": bench.training,
        "losses": bench.losses,
    }
    results: dict[str, Any] = {"environment": environment(), "dry_run": arguments.dry_run}
    for name in arguments.parts:
        begin = time.perf_counter()
        rows = results[name] = []
        for row in parts[name]():
            rows.append(row)
            print(json.dumps(row, indent=1), flush=True)
            if arguments.out:  # after every row: time on a card is short
                write_json(arguments.out, results)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


class Bench:
    """The parts, in full size on a card or small and interpreted."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.dtype = torch.float32 if dry else torch.bfloat16  # the interpreter has no bfloat16

    def linears(self) -> Iterator[Row]:
        for name, (out, features) in (
            LINEARS.items() if not self.dry else [("small", (20, 36)), ("wide", (33, 64))]
        ):
            for tokens in TOKENS if not self.dry else (1, 18):
                runs = {
                    name: in_a_graph(run, self.device)
                    for name, run in self._linear(tokens, out, features).items()
                }
                seconds = {name: time / CALLS for name, time in interleaved(runs, self.device).items()}
                tile = tile_for(tokens, out, self.device)._asdict()
                row = {
                    "shape": name,
                    "out": out,
                    "in": features,
                    "tokens": tokens,
                    "tile": tile,
                    "seconds": seconds,
                }
                for peer in ("bfloat16", "int_mm"):
                    if peer in seconds:
                        row[f"times_{peer}"] = seconds[peer] / seconds["product"]
                        row[f"times_{peer}_with_norm"] = seconds[peer] / seconds["norm and product"]
                yield row

    def _linear(self, tokens: int, out: int, features: int) -> dict[str, Run]:
        torch.manual_seed(0)
        x = torch.randn(tokens, features, device=self.device, dtype=self.dtype)
        codes = torch.randint(-1, 2, (out, features), device=self.device, dtype=torch.int8)
        gain, scale = torch.ones(1, features, device=self.device), torch.ones(1, device=self.device)
        planes, weight = pack_planes(codes), codes.to(self.dtype)
        x_codes, x_scale, _ = norm_quantize(x, gain, 1e-6)
        exact = x_codes[0].double() @ codes.double().t() * x_scale[0][:, None].double()
        y = ternary_product(x_codes, x_scale, planes, scale, [out], None, None, torch.float32)
        if not torch.allclose(y.double(), exact, rtol=1e-6, atol=1e-6):
            raise RuntimeError(
                f"the product of {tokens} tokens with ({out}, {features}) is wrong; nothing is timed"
            )

        def product(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
            return ternary_product(codes, scales, planes, scale, [out], None, None, self.dtype)

        runs: dict[str, Run] = {
            "product": lambda: product(x_codes, x_scale),
            "norm and product": lambda: product(*norm_quantize(x, gain, 1e-6)[:2]),
            "bfloat16": lambda: F.linear(x, weight),
        }
        if tokens > 16 or self.dry:  # what torch._int_mm takes on CUDA
            runs["int_mm"] = lambda: torch._int_mm(x_codes[0], codes.t())
        return runs

    def _model(self, config: Any, seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        if self.dry:
            config = type(config)(
                vocab_size=300,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
            )
        with self.device:  # so that random weights take no time
            return AutoModel.from_config(config, dtype=torch.float32).eval()

    def encoders(self) -> Iterator[Row]:
        for name, config in (("Qwen3-0.6B", QWEN3), ("Gemma3-270M", GEMMA3)):
            for texts, length in ((1, 32), (32, 128), (64, 512)) if not self.dry else ((2, 12),):
                yield {"model": name, **self._encoder(config, texts, length)}

    @torch.inference_mode()
    def _encoder(self, config: Any, texts: int, length: int) -> Row:
        plain = self._model(config)
        ternary = self._model(config)
        convert_to_bitnet(ternary)
        freeze(ternary)
        ids = torch.randint(5, 300, (texts, length), device=self.device)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def embed(model: Any) -> torch.Tensor:
            states = model(**batch).last_hidden_state
            return F.normalize(pool(states, batch["attention_mask"], "last"), dim=-1)

        use_kernel(ternary, "reference")
        expected = embed(ternary)
        use_kernel(ternary, "triton")
        lists = ids.tolist()
        narrow, plain = copy.deepcopy(ternary).to(self.dtype), plain.to(self.dtype)
        fused, fused_float32 = FusedEncoder(narrow, "last"), FusedEncoder(ternary, "last")
        cosines = {}
        for name, encoder in (("ternary, fused", fused), ("ternary, fused, float32 states", fused_float32)):
            first, *graphed = [encoder.encode(lists) for _ in range(3)]
            if not all(torch.equal(vectors, first) for vectors in graphed):
                raise RuntimeError("a CUDA graph gives other vectors than its kernels; nothing is timed")
            cosine = (first * expected).sum(dim=1)
            cosines[name] = {"min": cosine.min().item(), "median": cosine.median().item()}
        runs: dict[str, Run] = {
            "ternary, fused": lambda: fused.encode(lists),
            "ternary, fused, float32 states": lambda: fused_float32.encode(lists),
            "ternary, by layers": lambda: embed(narrow),
            "bfloat16": lambda: embed(plain),
        }
        if (texts, length) in COMPILED:
            torch._dynamo.reset()  # otherwise the second shape is compiled for all
            compiled = torch.compile(plain, mode="reduce-overhead", dynamic=False)
            runs["bfloat16 compiled"] = lambda: embed(compiled)
        seconds = interleaved(runs, self.device)
        linears = [p for n, p in plain.named_parameters() if p.ndim == 2 and "embed" not in n]
        return {
            "texts": texts,
            "length": length,
            "cosine_to_the_reference": cosines,
            "seconds": seconds,
            "tokens_per_second": {name: texts * length / s for name, s in seconds.items()},
            "linear_weight_bytes": {
                "bfloat16": sum(2 * p.numel() for p in linears),
                "ternary": sum(-(-p.shape[1] // 4) * p.shape[0] for p in linears),
            },
        }

    def training(self) -> Iterator[Row]:
        for name, config in (("Qwen3-0.6B", QWEN3), ("Gemma3-270M", GEMMA3)):
            for stage in (1, 2):
                row: Row = {"model": name, "stage": stage, "seconds": {}, "peak_bytes": {}}
                for kind in ("ternary", "without quantization"):
                    step = self._training_step(config, stage, kind == "ternary")
                    reset_peak(self.device)
                    row["seconds"][kind] = median_seconds(step, self.device, 1 if self.dry else 5)
                    row["peak_bytes"][kind] = peak(self.device)
                    del step
                row["ternary_takes_times"] = (
                    row["seconds"]["ternary"] / row["seconds"]["without quantization"]
                )
                yield row

    def _training_step(self, config: Any, stage: int, ternary: bool) -> Run:
        from bitembed_core.attention import capture_attention_states
        from workbench.recipes.forward import Embedded, autocast

        size, negatives, length = (64, 0, 64) if stage == 1 else (16, 2, 128)
        if self.dry:
            size, length = 2, 8
        student, teacher = self._model(config), self._model(config, seed=1)
        if ternary:
            convert_to_bitnet(student)
            use_kernel(student, "triton")
        student.train()
        layer = student.config.num_hidden_layers // 2
        objective = (
            Objective()
            if stage == 1
            else Objective(
                bits=(1, 2, 4, 8, 16), similarity_weight=0.2, relation_weight=1e4, relation_layer=layer
            )
        )
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=not self.dry)
        ids = torch.randint(5, 300, (size * (2 + negatives), length), device=self.device)
        mask = torch.ones_like(ids)

        def embedded(model: PreTrainedModel) -> Embedded:
            with autocast(self.device, self.dtype), capture_attention_states(model, layer) as capture:
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            queries, positives, rest = pool(states, mask, "last").tensor_split((size, 2 * size))
            hard = rest.unflatten(0, (size, -1)) if len(rest) else None
            return Embedded(EmbeddingBatch(queries, positives, hard), [capture.states], [mask])

        def step() -> float:
            target = None
            if stage == 2:
                with torch.no_grad():
                    target = embedded(teacher)
            loss = torch.stack(list(objective(embedded(student), target, True).terms.values())).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        if not torch.isfinite(torch.tensor(step())):
            raise RuntimeError("a training step gives no finite loss; nothing is timed")
        return step

    def losses(self) -> Iterator[Row]:
        queries, negatives, width = (8192, 7, 1024) if not self.dry else (6, 1, 16)
        torch.manual_seed(0)
        student = EmbeddingBatch(
            *(
                torch.randn(shape, device=self.device).requires_grad_()
                for shape in ((queries, width), (queries, width), (queries, negatives, width))
            )
        )

        def whole() -> torch.Tensor:
            scores, _, target = candidate_scores(student)
            return F.cross_entropy(scores / 0.02, target)

        texts, heads, length = (32, 32, 512) if not self.dry else (2, 2, 20)
        states = [
            AttentionStates(*(torch.randn(texts, heads, length, 32, device=self.device) for _ in range(3)))
            for _ in range(2)
        ]
        states[0] = AttentionStates(*(s.requires_grad_() for s in states[0]))
        mask = torch.ones(texts, length, device=self.device)

        def five_precisions() -> None:
            MultiPrecisionLoss()(student).total.backward()

        runs = {
            "contrastive, whole matrix": lambda: whole().backward(),
            "contrastive, in blocks": lambda: InfoNCE()(*student).backward(),
            "contrastive at five precisions": five_precisions,
            "relations": lambda: AttentionRelationDistillation(heads)(*states, mask).backward(),
        }
        torch.testing.assert_close(InfoNCE()(*student), whole(), rtol=1e-4, atol=1e-5)
        for name, run in runs.items():
            reset_peak(self.device)
            seconds = median_seconds(run, self.device, 1 if self.dry else 5)
            yield {"loss": name, "seconds": seconds, "peak_bytes": peak(self.device)}


def in_a_graph(run: Run, device: torch.device) -> Run:
    """CALLS of `run` without what launching them from Python takes."""
    if device.type != "cuda":
        return lambda: [run() for _ in range(CALLS)]
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS):
            run()
    return graph.replay


def interleaved(runs: dict[str, Run], device: torch.device, rounds: int = 5) -> dict[str, float]:
    """Median seconds of each run, the runs taking turns."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds if device.type == "cuda" else 1):
        for name, run in runs.items():
            samples[name].append(median_seconds(run, device, 5))
    return {name: statistics.median(taken) for name, taken in samples.items()}


def median_seconds(run: Run, device: torch.device, repeats: int) -> float:
    """Of one call, after two to warm up; on CUDA by events, with as many calls in a row as take two milliseconds."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    run(), run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    calls = max(1, int(0.002 / (time.perf_counter() - begin)))
    taken = []
    for _ in range(repeats):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        for _ in range(calls):
            run()
        events[1].record()
        torch.cuda.synchronize()
        taken.append(events[0].elapsed_time(events[1]) / 1e3 / calls)
    return statistics.median(taken)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


if __name__ == "__main__":
    main()
