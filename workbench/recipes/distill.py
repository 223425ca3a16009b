"""Stage 2: supervised fine-tuning of the ternary model, which imitates the teacher at every output
precision."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bitembed_core.storage.precisions import split_name
from workbench.config import option
from workbench.recipes.settings import TEACHER_VECTORS_HELP, TRIPLETS_HELP, Record, TrainingConfig
from workbench.recipes.stage import Conversion, Examples, Stage, run_stage


@dataclass(frozen=True)
class DistillConfig(TrainingConfig):
    """Distil a teacher into a ternary model on triplets, for every output precision at once."""

    backbone: str = option(
        "runs/pretrain",
        "ternary model to start from, or the run that made it; a plain backbone is converted first",
    )
    out: str = option("runs/distill", "folder of the run", changes_result=False)
    teacher: str | None = option(None, "model to imitate: a catalog name, a folder or a hub id")
    teacher_vectors: str | None = option(None, TEACHER_VECTORS_HELP, changes_result=False)
    triplets: str = option("offline", TRIPLETS_HELP)
    hard_negatives: int = option(7, "hard negatives per query, 0 for none (paper: 7)")
    mine: bool = option(True, "mine hard negatives with the teacher for sources that have none")
    mining_margin: float = option(
        0.95, "a mined negative scores below this share of the positive's score (NV-Retriever: 0.95)"
    )
    sites: Literal["all", "output", "none"] = option(
        "all", "where a plain backbone gets its norms when it is converted"
    )
    calibration_texts: int = option(256, "texts that set the gains of the new norms; 0 takes random tokens")
    learned_scales: bool = option(
        False,
        "train the scale of every ternary weight, and with it the threshold, of a plain backbone; others stay as they are",
    )
    bits: tuple[int | str, ...] = option(
        (1, 2, 4, 8, 16),
        "output precisions that are trained for (paper: these five); names of fitted formats too, such as int2-fitted",
    )
    rotation: Literal["none", "random", "fitted", "principal"] = option(
        "none",
        "turn the vectors so that rounding takes less, at random or fitted to the teacher's (ITQ), or to their principal "
        "axes, mixed within what the shortest of bits keeps; the model has it; none is what the backbone has (paper: none)",
    )
    centre_texts: int = option(
        0,
        "texts whose mean, as the teacher has it, is taken out of both models' vectors: rounding takes less of those of "
        "language models then; the model has it; 0 is what the backbone has (paper: none)",
    )
    contrastive_weight: float = option(
        1.0, "weight of InfoNCE over all positives and hard negatives of the batch"
    )
    similarity_weight: float = option(0.2, "weight of the similarity-distribution distillation (paper: 0.2)")
    float_queries_weight: float = option(
        0.0,
        "weight of both losses between queries in floating point and rounded candidates, relative to those between "
        "rounded ones (paper: none)",
    )
    relation_weight: float = option(
        1e4, "weight of the attention relations (paper: 1e4, with its temperature)"
    )
    relation_layer: int | None = option(
        None, "layer of the relations, from 0; none is about 60 % of the depth"
    )
    relation_heads: int = option(32, "heads that the relations are split into (BitDistill: 32)")
    relation_temperature: float | None = option(
        None, "temperature of the relations; none is sqrt of the head width as in Eq 8 (BitDistill: 1)"
    )
    regression_weight: float = option(
        0.0, "weight of 1 - cosine to the teacher's embedding (LEAF; paper: none)"
    )
    spread_out_weight: float = option(
        0.0, "weight of the spread-out regulariser (EmbeddingGemma; paper: none)"
    )
    output_map_texts: int = option(
        0,
        "texts on which the trained student's embeddings are mapped to the teacher's; 0 for no map (paper: none)",
    )


def distill(config: DistillConfig) -> Iterator[Record]:
    """Stage 2: train on `config.triplets`, imitating `config.teacher`; yields a record per step."""
    yield from run_stage(distill_stage(config))


def fewest_kept(bits: Sequence[int | str]) -> int | None:
    """How many components the shortest of the output precisions keeps; None if all keep all."""
    return min((kept for name in bits if (kept := split_name(str(name))[1])), default=None)


def distill_stage(config: DistillConfig) -> Stage:
    """Raises ValueError if there is no teacher."""
    if config.teacher is None:
        raise ValueError("stage 2 imitates a teacher: name one, for example the result of stage 0")
    return Stage(
        "distill",
        config,
        Examples(config.triplets, "triplets", config.hard_negatives, config.mine, config.mining_margin),
        config.teacher,
        Conversion(config.sites, config.calibration_texts, config.learned_scales),
        config.rotation,
        fewest_kept(config.bits),
        config.centre_texts,
        config.teacher_vectors,
        config.output_map_texts,
    )
