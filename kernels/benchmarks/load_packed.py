"""Loading a packed model against the same model in float32 through transformers: time and resident memory.

    python kernels/benchmarks/load_packed.py --model gemma3-270m --out kernels/benchmarks/results/load_packed_gemma3.json

The model is converted and written packed, with an int4 and a float16 table. The same architecture is read by
transformers in float32 from: a bfloat16 file (how the backbones are published), a float32 file, which transformers only
maps, so that it has read nothing yet when it is "loaded", and, where the catalog has the model as GGUF, that file.

Every load runs in a fresh process, the kinds in turn, after one round that only warms the page cache; "cold" rows have
the weight file thrown out of the page cache before. Resident memory is
what the process holds beyond what it held before loading, once loaded and once after encoding; the tokenizer is counted
in the rows that say so.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModel

from bitembed_core.files import write_json
from workbench.catalog.models import load_embedder
from workbench.environment import environment

ROUNDS = 3
PROBE = """
import json, sys, time, torch
from pathlib import Path
from bitembed_core import BitEmbedder
from transformers import AutoConfig, AutoModel, AutoTokenizer
import transformers.models.bert.modeling_bert, transformers.models.gemma3.modeling_gemma3
import transformers.models.qwen3.modeling_qwen3
def resident():
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith('VmRSS')).split()[1])
kind, folder = sys.argv[1:]
before = resident()
start = time.perf_counter()
if folder.endswith('.gguf'):
    import gguf
    parent, file = Path(folder).parent, Path(folder).name
    start = time.perf_counter()
    model = AutoModel.from_pretrained(parent, gguf_file=file, dtype=torch.float32)
elif kind == 'transformers':
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
else:
    embedder = BitEmbedder.from_pretrained(folder, device='cpu')
    model = embedder.model
seconds, loaded = time.perf_counter() - start, resident() - before
ids = torch.arange(1000, 1128).reshape(2, 64)
with torch.inference_mode():
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
ready, run = time.perf_counter() - start, resident() - before
start = time.perf_counter()
if folder.endswith('.gguf'):
    AutoTokenizer.from_pretrained(parent, gguf_file=file)
elif kind == 'transformers':
    AutoTokenizer.from_pretrained(folder)
else:
    embedder.tokenizer
tokenizer = time.perf_counter() - start
print(json.dumps({
    'load_s': seconds,
    'load_and_first_forward_s': ready,
    'tokenizer_s': tokenizer,
    'resident_loaded': loaded,
    'resident_after_forward': run,
    'resident_with_tokenizer': resident() - before,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--gguf", type=Path, help="the model's GGUF file, to load it from as well")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    surroundings = environment()
    with tempfile.TemporaryDirectory() as scratch:
        folders = prepare(arguments.model, Path(scratch))
        if arguments.gguf:
            folders["float32 of a GGUF file"] = ("transformers", arguments.gguf)
        for name, (kind, folder) in folders.items():
            probe(name, kind, folder)
        runs = [
            probe(f"{name}, {state}", kind, folder, cold=state == "cold")
            for _ in range(ROUNDS)
            for name, (kind, folder) in folders.items()
            for state in ("warm", "cold")
        ]
        sizes = {name: weight_file(folder).stat().st_size for name, (_, folder) in folders.items()}
    medians = {
        name: {
            key: statistics.median(run[key] for run in runs if run["name"] == name)
            for key in runs[0]
            if key != "name"
        }
        for name in sorted({run["name"] for run in runs})
    }
    ratios = {
        name: {
            key: value / medians[f"packed, int4 table, {name.rpartition(', ')[2]}"][key]
            for key, value in row.items()
        }
        for name, row in medians.items()
        if name.startswith("float32")
    }
    results = {
        "model": arguments.model,
        "environment": surroundings,
        "rounds": ROUNDS,
        "weights_bytes": sizes,
        "medians": medians,
        "times_packed_int4": ratios,
        "runs": runs,
    }
    write_json(arguments.out, results)
    print(json.dumps({"weights_bytes": sizes, "medians": medians, "times_packed_int4": ratios}, indent=1))


def prepare(model: str, scratch: Path) -> dict[str, tuple[str, Path]]:
    embedder = load_embedder(model)
    embedder.save_pretrained(scratch / "float32")
    plain = AutoModel.from_pretrained(scratch / "float32", dtype=torch.bfloat16)
    plain.save_pretrained(scratch / "bfloat16")
    embedder.tokenizer.save_pretrained(scratch / "bfloat16")
    embedder.convert()
    embedder.save_pretrained(scratch / "float16", "packed")
    embedder.save_pretrained(scratch / "int4", "packed", token_table="int4")
    return {
        "float32 of a bfloat16 file": ("transformers", scratch / "bfloat16"),
        "float32 of a float32 file": ("transformers", scratch / "float32"),
        "packed, float16 table": ("packed", scratch / "float16"),
        "packed, int4 table": ("packed", scratch / "int4"),
    }


def weight_file(source: Path) -> Path:
    return source if source.is_file() else source / "model.safetensors"


def probe(name: str, kind: str, folder: Path, cold: bool = False) -> dict[str, float | str]:
    if cold:
        with weight_file(folder).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, kind, str(folder)], capture_output=True, text=True, check=True
    )
    return {"name": name, **json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    main()
