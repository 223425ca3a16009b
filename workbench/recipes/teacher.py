"""Stage 0: the teacher, which is the backbone in floating point, fine-tuned with InfoNCE on the triplets."""

from collections.abc import Iterator
from dataclasses import dataclass

from workbench.config import option
from workbench.recipes.settings import TRIPLETS_HELP, Record, TrainingConfig
from workbench.recipes.stage import Examples, Stage, run_stage


@dataclass(frozen=True)
class TeacherConfig(TrainingConfig):
    """Fine-tune a backbone in floating point; it becomes the teacher of the ternary model."""

    out: str = option("runs/teacher", "folder of the run", changes_result=False)
    learning_rate: float = option(5e-6, "peak learning rate (paper: 5e-6)")
    triplets: str = option("offline", TRIPLETS_HELP)
    hard_negatives: int = option(7, "hard negatives per query, 0 for none (paper: 7)")
    mine: bool = option(False, "mine hard negatives with the backbone itself for sources that have none")
    mining_margin: float = option(
        0.95, "a mined negative scores below this share of the positive's score (NV-Retriever: 0.95)"
    )


def teacher(config: TeacherConfig) -> Iterator[Record]:
    """Stage 0: train on `config.triplets`; yields a record per step."""
    yield from run_stage(teacher_stage(config))


def teacher_stage(config: TeacherConfig) -> Stage:
    return Stage(
        "teacher",
        config,
        Examples(config.triplets, "triplets", config.hard_negatives, config.mine, config.mining_margin),
    )
