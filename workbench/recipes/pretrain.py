"""Stage 1: continual contrastive pre-training of the ternary model on text pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from workbench.config import option
from workbench.recipes.settings import TEACHER_VECTORS_HELP, Record, TrainingConfig
from workbench.recipes.stage import Conversion, Examples, Stage, run_stage


@dataclass(frozen=True)
class PretrainConfig(TrainingConfig):
    """Convert a backbone to ternary weights and train it on text pairs, with a teacher's signal if there
    is one."""

    out: str = option("runs/pretrain", "folder of the run", changes_result=False)
    learning_rate: float = option(
        5e-4, "peak learning rate (not published; ternary training wants a high one)"
    )
    pairs: str = option(
        "offline",
        "text pairs: a mix, source names joined by commas, a JSONL or Parquet file, hub:<data set>; or read while they are "
        "used: a folder or pattern of such files, a mixture.json of sources and weights (workbench/catalog/mixture.py)",
    )
    sites: Literal["all", "output", "none"] = option(
        "all",
        "norms before every ternary linear (released checkpoints), two per block (paper, Eq 3), or none",
    )
    calibration_texts: int = option(256, "texts that set the gains of the new norms; 0 takes random tokens")
    learned_scales: bool = option(
        False,
        "train the scale of every ternary weight, and with it the threshold, instead of taking mean|W|",
    )
    token_table: Literal["float16", "int8", "int4"] = option(
        "float16", "precision of the token table, which it is rounded to before training and stored in"
    )
    teacher: str | None = option(
        None, "model to imitate from the first step; the paper has none in this stage"
    )
    teacher_vectors: str | None = option(None, TEACHER_VECTORS_HELP, changes_result=False)
    contrastive_weight: float = option(1.0, "weight of InfoNCE over the pairs of the batch")
    regression_weight: float = option(
        5.0, "weight of 1 - cosine to the teacher's embedding (LEAF); needs a teacher"
    )
    similarity_weight: float = option(
        1.0,
        "weight of the KL divergence between the teacher's in-batch similarities and ours; needs a teacher",
    )
    relation_weight: float = option(
        0.0, "weight of the attention relations; needs a teacher with the same tokens"
    )
    relation_layer: int | None = option(
        None, "layer of the relations, from 0; none is about 60 % of the depth"
    )
    relation_heads: int = option(32, "heads that the relations are split into (BitDistill: 32)")
    relation_temperature: float | None = option(
        None, "temperature of the relations; none is sqrt of the head width"
    )
    spread_out_weight: float = option(0.0, "weight of the spread-out regulariser (EmbeddingGemma)")


def pretrain(config: PretrainConfig) -> Iterator[Record]:
    """Stage 1: train on `config.pairs`; yields a record per step."""
    yield from run_stage(pretrain_stage(config))


def pretrain_stage(config: PretrainConfig) -> Stage:
    return Stage(
        "pretrain",
        config,
        Examples(config.pairs, "pairs"),
        config.teacher,
        Conversion(config.sites, config.calibration_texts, config.learned_scales, config.token_table),
        teacher_vectors=config.teacher_vectors,
    )
