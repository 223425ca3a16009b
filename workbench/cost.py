"""What training the paper's backbones takes on GPUs, planned on paper: `docs/training-at-scale.md`.

python -m workbench.cost --gpus 8 --peak-tflops 989            # prints the tables
python -m workbench.cost --document docs/training-at-scale.md   # puts them into the document, between its markers
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModel, Gemma3TextConfig, PretrainedConfig, Qwen3Config

from bitembed_core import StorageFormat
from bitembed_core.files import atomic_path, read_json
from workbench.config import option, parse_config
from workbench.recipes.cost import (
    FLOAT32,
    Shape,
    activation_bytes,
    checkpoint_bytes,
    forward_flops,
    state_bytes,
    step_flops,
    step_lengths,
)
from workbench.recipes.presets import RECIPES
from workbench.recipes.settings import TrainingConfig

BACKBONES: dict[str, Callable[..., PretrainedConfig]] = {
    "gemma3-270m": partial(
        Gemma3TextConfig,
        hidden_size=640,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        intermediate_size=2048,
        vocab_size=262_144,
    ),
    "qwen3-0.6b": partial(
        Qwen3Config,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151_936,
    ),
}
GIB, TIB = 2**30, 2**40
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class CostConfig:
    """Assumptions of the plan; everything else follows from the recipes and the shapes of the models."""

    gpus: int = option(8, "how many")
    peak_tflops: float = option(989.0, "of one GPU in bfloat16, without sparsity (H100 SXM, by its maker)")
    utilisation: tuple[float, ...] = option(
        (0.2, 0.3, 0.4), "shares of that peak that training may reach; not measured, no GPU was at hand"
    )
    pair_tokens: tuple[int, ...] = option((16, 96), "tokens of a query and of a text in stage 1")
    triplet_tokens: tuple[int, ...] = option((40, 200), "tokens of a query and of a text in stages 0 and 2")
    token_bytes: float = option(4.5, "bytes of raw text in a token")
    measured: str = option(
        "kernels/benchmarks/results/training_flops.json",
        "what kernels/benchmarks/training_flops.py has measured",
    )
    document: str | None = option(None, "Markdown file to put the tables into; none prints them")


def stages(name: str) -> dict[str, TrainingConfig]:
    """Stages 1, 0 and 2 of the recipe for 8 GPUs of a backbone."""
    recipe = RECIPES[f"{name}-8gpu"]
    return {"1": recipe.pretrain, "0": recipe.distill.teacher_config, "2": recipe.distill}


def shape_of(name: str) -> Shape:
    with torch.device("meta"):
        return Shape.of(AutoModel.from_config(BACKBONES[name]()))


def shapes(_: CostConfig) -> Rows:
    """The backbones."""
    rows = [["backbone", "layers", "weights in blocks", "token table", "GFLOP forward, 128 tokens"]]
    for name in BACKBONES:
        shape = shape_of(name)
        weights = [f"{count / 1e6:.1f} M" for count in (shape.block_weights, shape.table_weights)]
        rows.append([name, str(shape.layers), *weights, f"{forward_flops(shape, [128]) / 1e9:.1f}"])
    return rows


def check(config: CostConfig) -> Rows:
    """A step on a CPU core, against its count of operations."""
    measured = read_json(config.measured)
    step, product = measured["step_gflops"], measured["product_gflops"]
    return [
        ["MiniLM, float32", "GFLOP", "seconds", "GFLOP/s", "GFLOP/s of a plain product", "share"],
        [
            f"{measured['texts']} texts of {measured['tokens']} tokens",
            *(f"{measured[name]:.2f}" for name in ("step_gflop", "step_seconds")),
            *(f"{step:.0f}", f"{product:.0f}", f"{step / product:.0%}"),
        ],
    ]


def hours(config: CostConfig) -> Rows:
    """Operations and hours of each stage."""
    shares = [f"{share:.0%}" for share in config.utilisation]
    rows = [
        ["backbone", "stage", "steps x examples", "tokens", "EFLOP"]
        + [f"hours at {share}" for share in shares]
        + [f"seconds a step at {shares[len(shares) // 2]}"]
    ]
    for name in BACKBONES:
        shape = shape_of(name)
        for stage, training in stages(name).items():
            lengths = step_lengths(training, *(config.pair_tokens if stage == "1" else config.triplet_tokens))
            flops = step_flops(training, shape, shape if stage == "2" else None, lengths)
            seconds = [
                flops / (config.gpus * config.peak_tflops * 1e12 * share) for share in config.utilisation
            ]
            rows.append(
                [name, stage, f"{training.steps:,} x {training.batch_size:,}"]
                + [f"{training.steps * sum(lengths) / 1e9:.1f} G", f"{training.steps * flops / 1e18:,.0f}"]
                + [f"{training.steps * second / 3600:.1f}" for second in seconds]
                + [f"{seconds[len(seconds) // 2]:.2f}"]
            )
    return rows


def memory(config: CostConfig) -> Rows:
    """GiB on each GPU in stage 2, where a teacher is there too."""
    states = ["weights, gradients, moments: copies", "in shards"]
    rows = [["backbone", *states, "teacher", "activations of a chunk", "with --gradient-checkpointing"]]
    for name, make_config in BACKBONES.items():
        shape, training = shape_of(name), stages(name)["2"]
        frozen, chunk = training.freeze_token_embeddings, training.chunk_tokens or 0
        kept = activation_bytes(make_config)
        inputs = shape.layers * FLOAT32 * shape.hidden
        columns = [
            state_bytes(shape, frozen, config.gpus, sharded=False),
            state_bytes(shape, frozen, config.gpus, sharded=True),
            FLOAT32 * shape.weights,
            chunk * shape.layers * kept,
            chunk * (inputs + kept),
        ]
        rows.append([name, *(f"{size / GIB:.1f}" for size in columns)])
    return rows


def disk(config: CostConfig) -> Rows:
    """Disk space of stage 1."""
    checkpoints = ["a checkpoint, GiB", "with those kept, GiB"]
    rows = [["backbone", *checkpoints, "text, TiB", "a teacher's vectors of it, TiB"]]
    for name in BACKBONES:
        shape, training = shape_of(name), stages(name)["1"]
        one = checkpoint_bytes(shape, training.freeze_token_embeddings)
        pairs = training.steps * training.batch_size
        columns = [
            one / GIB,
            one * (training.keep_checkpoints + 1) / GIB,
            pairs * sum(config.pair_tokens) * config.token_bytes / TIB,
            2 * pairs * StorageFormat("float16", shape.hidden).bytes_per_vector / TIB,
        ]
        rows.append([name, *(f"{size:.2f}" for size in columns)])
    return rows


TABLES: dict[str, Callable[[CostConfig], Rows]] = {
    "shapes": shapes,
    "check": check,
    "hours": hours,
    "memory": memory,
    "disk": disk,
}


def markdown(rows: Rows) -> str:
    """`rows`, the first of which has the headings, as a table."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def filled(document: str, config: CostConfig) -> str:
    """`document` with each table between `<!-- table: name -->` and `<!-- end -->`."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found, rest = document.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the document has no place for the table {name!r}: {begin}{end}")
        document = f"{before}{begin}{markdown(rows(config))}\n{end}{after}"
    return document


def main() -> None:
    config, _ = parse_config(CostConfig)
    if config.document is None:
        print("\n\n".join(markdown(rows(config)) for rows in TABLES.values()))
        return
    text = filled(Path(config.document).read_text(encoding="utf-8"), config)
    with atomic_path(config.document) as fresh:
        fresh.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
