"""What the stages have in common: the fields of their configurations, and the records that they yield."""

from dataclasses import dataclass
from typing import Literal

from workbench.config import option

Record = dict[str, float | int | str]
"""One step of training: step (from 1), steps, stage, source, loss, relation_ratio, grad_norm (before
clipping), lr, tokens_per_second (padding not counted) and seconds; now and then zero_share and flip_share (of the
ternary weights: those that are zero, and those that this step changed).
The terms of the loss that are on are there by name, each times its weight: contrastive, similarity,
relations, regression, spread_out; with several output precisions also contrastive_1bit, contrastive_int2-fitted and so on.
relation_ratio is relations / contrastive. pressure is how much of the rounding of weights this step was
trained with, 0 to 1; the dev score is of the ternary model whatever it is.
Every `dev_every` steps there is dev_ndcg, nDCG@10 on examples held out of training, and with a teacher dev_retention,
the share of its own; the first record of such a run has both from before training too, as dev_ndcg_before and
dev_retention_before. The last record of a run also has the folders that it wrote: latent and, if ternary, model."""

TRIPLETS_HELP = (
    "examples with hard negatives: a mix, source names with commas, a JSONL or Parquet file, hub:<data set>; or read "
    "while they are used: a folder or pattern of such files, a mixture.json of sources and weights "
    "(workbench/catalog/mixture.py)"
)

TEACHER_VECTORS_HELP = (
    "folder that keeps the teacher's vectors, rounded to float16, for later epochs and runs on the same texts; none "
    "computes them each time. Attention relations still need the teacher, up to their layer"
)


@dataclass(frozen=True)
class TrainingConfig:
    """Settings that every stage of training has."""

    backbone: str = option("minilm", "model to start from: a catalog name, a folder or a hub id")
    out: str = option("runs/train", "folder of the run", changes_result=False)
    steps: int = option(1000, "optimiser steps")
    batch_size: int = option(128, "examples in a step, over all processes (stage 2 of the paper: 128)")
    accumulation: int = option(
        1, "micro-batches in a step; in-batch negatives come from the own micro-batch only"
    )
    chunk_tokens: int | None = option(
        None,
        "tokens, with padding, that go through the model at once, for batches larger than memory (GradCache); none for all",
    )
    gradient_checkpointing: bool = option(
        False,
        "keep only the input of each layer and compute the layer again going backward: less memory, more time",
        changes_result=False,
    )
    optimizer: Literal["adamw", "muon"] = option(
        "adamw", "of the matrices; norms, biases and tables are always moved by AdamW"
    )
    learning_rate: float = option(3e-5, "peak learning rate (paper: 5e-6 for the teacher, 3e-5 in stage 2)")
    warmup_share: float = option(0.1, "share of the steps in which the learning rate rises from 0")
    decay: Literal["cosine", "linear", "constant"] = option(
        "cosine", "learning rate after the warm-up, down to 0"
    )
    weight_decay: float = option(0.01, "weight decay of the matrices; norms, biases, embeddings have none")
    weight_decay_until: float = option(
        1.0, "share of the steps with weight decay; after it there is none (BitNet b1.58: 0.5)"
    )
    pressure_warmup_share: float = option(
        0.0,
        "share of the steps in which the rounding of ternary weights sets in, from none to all of it; 0 for all at once",
    )
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm")
    max_length: int = option(128, "tokens kept of each text, at most as many as the model takes")
    temperature: float = option(
        0.02, "temperature of the contrastive loss and of the similarity distillation (paper)"
    )
    false_negative_margin: float | None = option(
        None, "drop a negative that scores this much above the positive (Qwen3-Embedding: 0.1; paper: none)"
    )
    freeze_token_embeddings: bool = option(
        True, "keep the token table as it is; it is most of the memory of a small language model"
    )
    exclude_tasks: str = option(
        "",
        "drop examples that share ten words in a row with evaluation tasks: offline, task names, or a folder",
    )
    limit_per_source: int | None = option(None, "examples taken from each source at most")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "arithmetic of the forward pass; auto is bfloat16 where the processor computes in it"
    )
    seed: int = option(0, "decides the order of the examples")
    dev_every: int | None = option(
        None, "steps between measurements of retrieval on held-out examples; none for never"
    )
    dev_examples: int = option(300, "examples that are held out for that")
    patience: int | None = option(
        None, "stop after so many measurements without a better one; none trains to the end"
    )
    watch_every: int = option(
        100,
        "steps between reports on every layer (layers.jsonl): flipping and dead weights, activation ranges",
        changes_result=False,
    )
    save_every: int = option(
        200, "steps between checkpoints; there is always one at the end", changes_result=False
    )
    keep_checkpoints: int = option(2, "checkpoints kept, newest first", changes_result=False)
    resume: bool = option(
        False, "continue from the newest checkpoint in the run folder", changes_result=False
    )
    overwrite: bool = option(False, "replace the run that is in the run folder", changes_result=False)
    log_every: int = option(10, "steps between progress lines", changes_result=False)
    tracker: str | None = option(
        None, "also send the records to an accelerate tracker: tensorboard, wandb, ...", changes_result=False
    )

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the runs that these settings make, in the order in which they are trained."""
        return (self.out,)

    def __post_init__(self) -> None:
        at_least_one = (
            "steps",
            "batch_size",
            "accumulation",
            "max_length",
            "watch_every",
            "save_every",
            "keep_checkpoints",
            "log_every",
            "dev_examples",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("chunk_tokens", "dev_every", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or none, not {getattr(self, name)}")
        if self.patience is not None and self.dev_every is None:
            raise ValueError("patience counts measurements on held-out examples: set dev_every too")
        positive = ("learning_rate", "temperature", "max_grad_norm")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")
        for name in ("warmup_share", "weight_decay_until", "pressure_warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share of the steps, 0 to 1, not {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into {self.accumulation} micro-batches: "
                "change batch_size or accumulation"
            )
        if self.resume and self.overwrite:
            raise ValueError("resume continues the run in the folder, overwrite deletes it: choose one")
