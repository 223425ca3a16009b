"""Our GGUF files against programs that others wrote: the published converter, and llama.cpp.

    python kernels/benchmarks/gguf_peers.py --release runs/x/release --published published.gguf \
        --llama-embedding build/bin/llama-embedding --out kernels/benchmarks/results/gguf_peers.json

`published.gguf` is what `utils/convert-bitnet-embedding-to-gguf.py` of microsoft/BitNet makes of the release folder with
`--outtype i2_s`. Its tensors and keys are compared with those of the file written here. llama.cpp cannot run projection
norms, so it is given a model in floating point (F16) and a small random Qwen3 without projection norms (TQ2_0, TQ1_0, rows
by the 256), and its embeddings are compared with ours.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.gguf import GGUFFile
from bitembed_core.checkpoints.gguf.container import F16, F32, I2_S
from bitembed_core.checkpoints.sentence_files import SentenceSettings
from bitembed_core.files import write_json
from workbench.catalog.models import load_embedder
from workbench.environment import environment

TEXTS = ["a ternary weight is minus one, zero or one", "Where do the bytes go?", "The cat sat on the mat."]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--llama-embedding", required=True)
    parser.add_argument("--tokenizer", help="a model whose byte-level tokenizer the small Qwen3 takes")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ours = Path(scratch) / "ours.gguf"
        BitEmbedder.from_pretrained(arguments.release, device="cpu").save_pretrained(ours, "gguf")
        results: dict[str, Any] = {
            "environment": environment(),
            "converter": compare(ours, arguments.published),
        }
        results["llama.cpp"] = {
            name: agreement(embedder, Path(scratch), kind, arguments.llama_embedding)
            for name, embedder, kind in models(arguments.tokenizer)
        }
    write_json(arguments.out, results)
    print(json.dumps({key: results[key] for key in ("converter", "llama.cpp")}, indent=1))


def compare(ours: Path, published: Path) -> dict[str, Any]:
    """How far two files of the same model are the same."""
    a, b = GGUFFile(ours), GGUFFile(published)
    packed = [name for name, entry in a.tensors.items() if entry.type == I2_S]
    scales = [(a.data(name)[-32:-28].view("<f4")[0], b.data(name)[-32:-28].view("<f4")[0]) for name in packed]
    norms = [name for name, entry in a.tensors.items() if entry.type == F32]
    as_float = {F16: "<f2", F32: "<f4"}
    differences = [
        np.abs(a.data(n).view("<f4") - b.data(n).view(as_float[b.tensors[n].type]).astype("<f4")).max()
        for n in norms
    ]
    return {
        "same_tensor_names_and_shapes": {n: e.shape for n, e in a.tensors.items()}
        == {n: e.shape for n, e in b.tensors.items()},
        "i2_s_tensors": len(packed),
        "i2_s_tensors_with_the_same_codes": sum(
            bool((a.data(n)[:-32] == b.data(n)[:-32]).all()) for n in packed
        ),
        "largest_relative_difference_of_a_scale": float(max(abs(x - y) / y for x, y in scales)),
        "token_table_the_same": bool((a.data("token_embd.weight") == b.data("token_embd.weight")).all()),
        "norms": len(norms),
        "largest_difference_of_a_norm_stored_as_float16_there": float(max(differences)),
        "keys_with_other_values": sorted(
            key for key in a.metadata.keys() & b.metadata.keys() if a.metadata[key] != b.metadata[key]
        ),
        "keys_only_published": sorted(b.metadata.keys() - a.metadata.keys()),
        "keys_only_here": sorted(a.metadata.keys() - b.metadata.keys()),
    }


def models(tokenizer: str | None) -> list[tuple[str, BitEmbedder, str]]:
    gemma = load_embedder("gemma3-270m", device="cpu")
    found = [("gemma3-270m in floating point, F16", gemma, "f16")]
    if tokenizer is None:
        return found
    from transformers import AutoTokenizer

    for kind in ("tq2_0", "tq1_0"):
        torch.manual_seed(0)
        words = AutoTokenizer.from_pretrained(tokenizer)
        config = AutoConfig.for_model(
            "qwen3",
            vocab_size=len(words),
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=128,
        )
        embedder = BitEmbedder(
            AutoModel.from_config(config).eval(), words, SentenceSettings("last", 128), device="cpu"
        )
        embedder.convert("none")
        found.append((f"random Qwen3 without projection norms, {kind.upper()}", embedder, kind))
    return found


def agreement(embedder: BitEmbedder, scratch: Path, kind: str, program: str) -> list[float]:
    """Cosines of llama.cpp's embeddings of TEXTS, tokenised by itself, to ours."""
    file = scratch / f"{kind}.gguf"
    embedder.save_pretrained(file, "gguf", gguf_type=kind)
    cosines = []
    for text, ours in zip(TEXTS, embedder.encode(TEXTS), strict=True):
        command = [
            program,
            "-m",
            str(file),
            "-p",
            text,
            "--embd-output-format",
            "array",
            "--embd-normalize",
            "2",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = np.array(json.loads(done.stdout[done.stdout.index("[") :])[0])
        cosines.append(float(ours @ theirs))
    return cosines


if __name__ == "__main__":
    main()
