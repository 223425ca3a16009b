"""Texts per second of MiniLM, tokenisation included: ternary and native, sentence-transformers, onnxruntime int8.

    python kernels/benchmarks/cpu_texts.py --model runs/demo --out kernels/benchmarks/results/cpu_texts_minilm.json

The peers run the floating-point backbone of the catalog. The ONNX export is compared with torch before it is quantized
and timed. Rounds go through the backends in turn.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bitembed_core.files import write_json
from bitembed_core.ops import library
from bitembed_core.tokenization import length_batches, pad, token_ids
from workbench.catalog.models import load_embedder
from workbench.catalog.tasks import TASKS
from workbench.cli import public_name
from workbench.environment import environment

BATCH = 32
Encode = Callable[[list[str]], np.ndarray]


class Pooled(nn.Module):
    """Token ids to mean-pooled, normalised vectors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).float()
        return F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a ternary MiniLM")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    surroundings = environment()
    corpora = texts()
    with tempfile.TemporaryDirectory() as scratch:
        ternary = load_embedder(arguments.model)
        ternary.max_length = 128
        backends: dict[str, Encode] = {"native ternary": ternary.encode}
        backends |= peers(arguments.backbone, Path(scratch), arguments.threads)
        reference = backends["sentence-transformers float32"](corpora["short"])
        agreement = {
            name: float((encode(corpora["short"]) * reference).sum(axis=1).min())
            for name, encode in backends.items()
        }
        if agreement["onnxruntime float32"] < 0.999:
            raise RuntimeError(f"the ONNX export is not the model: cosine {agreement['onnxruntime float32']}")
        seconds: dict[str, dict[str, list[float]]] = {name: {} for name in backends}
        for encode in backends.values():
            for corpus in corpora.values():
                encode(corpus)
        for _ in range(arguments.rounds):
            for name, encode in backends.items():
                for corpus, its_texts in corpora.items():
                    time.sleep(0.05)
                    start = time.perf_counter()
                    encode(its_texts)
                    seconds[name].setdefault(corpus, []).append(time.perf_counter() - start)
    rates = {
        name: {
            corpus: {
                "median": len(corpora[corpus]) / statistics.median(runs),
                "min": len(corpora[corpus]) / max(runs),
                "max": len(corpora[corpus]) / min(runs),
            }
            for corpus, runs in row.items()
        }
        for name, row in seconds.items()
    }
    lengths = {
        name: [len(ids) for ids in token_ids(ternary.tokenizer, corpus, 128)[0]]
        for name, corpus in corpora.items()
    }
    results = {
        "model": public_name(arguments.model),
        "environment": surroundings,
        "kernel": ternary.kernel,
        "peak_gops": library.native().bitembed_peak_gops(arguments.threads),
        "texts": {name: {"texts": len(n), "tokens": sum(n)} for name, n in lengths.items()},
        "smallest_cosine_to_sentence_transformers": agreement,
        "texts_per_second": rates,
        "native_is_times": {
            name: {
                corpus: rates["native ternary"][corpus]["median"] / row[corpus]["median"] for corpus in row
            }
            for name, row in rates.items()
        },
    }
    if arguments.out:
        write_json(arguments.out, results)
    print(json.dumps({k: v for k, v in results.items() if k != "environment"}, indent=1))


def texts() -> dict[str, list[str]]:
    """Real texts: search queries, and documents of some hundred characters."""
    task = TASKS["ret_fiqa_mini"].load()
    queries, documents = list(task.queries.values()), [" ".join(parts) for parts in task.corpus.values()]
    return {"32 short": queries[:32], "short": queries[:512], "documents": documents[:512]}


def peers(backbone: str, scratch: Path, threads: int) -> dict[str, Encode]:
    from onnxruntime import InferenceSession, SessionOptions
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from sentence_transformers import SentenceTransformer

    embedder = load_embedder(backbone)
    embedder.max_length = 128
    embedder.save_pretrained(scratch / "float32")
    sentence = SentenceTransformer(str(scratch / "float32"), device="cpu")
    sentence.max_seq_length = 128
    embedder.model.set_attn_implementation("eager")
    example = (torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long))
    axes = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "length"}}
    torch.onnx.export(
        Pooled(embedder.model),
        example,
        scratch / "float32.onnx",
        input_names=list(axes),
        output_names=["vectors"],
        dynamic_axes=axes,
        dynamo=False,
    )
    quantize_dynamic(scratch / "float32.onnx", scratch / "int8.onnx", weight_type=QuantType.QInt8)
    options = SessionOptions()
    options.intra_op_num_threads = threads

    def onnx(file: str) -> Encode:
        session = InferenceSession(scratch / file, options, providers=["CPUExecutionProvider"])

        def encode(corpus: list[str]) -> np.ndarray:
            ids, _ = token_ids(embedder.tokenizer, corpus, 128)
            vectors = np.empty((len(corpus), embedder.dimension), dtype=np.float32)
            for rows in length_batches([len(tokens) for tokens in ids], BATCH):
                batch = pad([ids[row] for row in rows], embedder.tokenizer.pad_token_id)
                vectors[rows] = session.run(None, {name: t.numpy() for name, t in batch.items()})[0]
            return vectors

        return encode

    return {
        "sentence-transformers float32": lambda corpus: sentence.encode(
            corpus, batch_size=BATCH, normalize_embeddings=True
        ),
        "onnxruntime float32": onnx("float32.onnx"),
        "onnxruntime int8": onnx("int8.onnx"),
    }


if __name__ == "__main__":
    main()
