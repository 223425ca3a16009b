"""Stage 0 and stage 2 in one go: a teacher is trained if none is given, then it teaches; and what they are measured
against, the same model made ternary without any training."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from accelerate import PartialState

from bitembed_core import BitEmbedder
from bitembed_core.files import atomic_path
from workbench.catalog.examples import load_examples
from workbench.catalog.models import load_embedder
from workbench.catalog.tasks import TASKS
from workbench.config import option
from workbench.recipes.distill import DistillConfig, distill, distill_stage
from workbench.recipes.settings import Record, TrainingConfig
from workbench.recipes.stage import Stage, sample_texts
from workbench.recipes.teacher import TeacherConfig, teacher, teacher_stage
from workbench.runs import Run

Config = TypeVar("Config", bound=TrainingConfig)


@dataclass(frozen=True)
class StagesConfig(DistillConfig):
    """Train a teacher if none is given, distil it into a ternary model for every output precision, evaluate both."""

    teacher_backbone: str | None = option(
        None, "what a teacher is trained from; none is what the backbone was made from"
    )
    teacher_steps: int = option(200, "optimiser steps of the teacher")
    teacher_learning_rate: float = option(5e-6, "peak learning rate of the teacher (paper: 5e-6)")
    tasks: str = option(
        "ret_consumer_contracts,sts_words,cls_20news,clu_debian_sections",
        "evaluation: 'offline', task names joined by commas, a folder, an mteb task; empty for none",
    )
    exclude_tasks: str = option(
        "tasks",
        "drop examples that share ten words in a row with these: 'tasks' that are evaluated, 'offline', ...",
    )
    cap: int | None = option(200, "shorten tasks to about this many queries and texts; none for all")

    @property
    def excluded(self) -> str:
        """The evaluation tasks whose text must not be trained on; tasks of mteb's own cannot be looked through."""
        if self.exclude_tasks != "tasks":
            return self.exclude_tasks
        names = self.tasks.split(",")
        if "offline" in names or os.path.isdir(self.tasks):
            return "offline" if "offline" in names else self.tasks
        return ",".join(name for name in names if name in TASKS)

    @property
    def teacher_config(self) -> TeacherConfig:
        """Stage 0 with the same data and arithmetic, in a run beside this one, which is continued if it is there."""
        out = f"{self.out}-teacher"
        shared = {item.name: getattr(self, item.name) for item in fields(TrainingConfig)}
        own = {
            "backbone": self.teacher_backbone or origin_of(self.backbone),
            "out": out,
            "steps": self.teacher_steps,
            "learning_rate": self.teacher_learning_rate,
            "exclude_tasks": self.excluded,
            "resume": Run(Path(out)).exists and not self.overwrite,
        }
        return TeacherConfig(**shared | own, triplets=self.triplets, hard_negatives=self.hard_negatives)

    @property
    def student_config(self) -> DistillConfig:
        """Stage 2 with the teacher given, or with the one that stage 0 trains."""
        own = {item.name: getattr(self, item.name) for item in fields(DistillConfig)}
        return DistillConfig(**own | {"teacher": self.teacher_name, "exclude_tasks": self.excluded})

    @property
    def folders(self) -> tuple[str, ...]:
        return (self.teacher_config.out, self.out) if self.teacher is None else (self.out,)

    @property
    def teacher_name(self) -> str:
        """The teacher given, or the run that trains it."""
        return self.teacher or self.teacher_config.out


def teach_and_distill(config: StagesConfig) -> Iterator[Record]:
    """The records of the teacher, if one has to be trained, then those of its student, unless the teacher was paused.

    A student's run that is to be overwritten goes with the teacher's first step, so that a pause does not find it.

    Raises:
        FileExistsError: there is a run in `config.out`, and it is neither to be resumed nor overwritten.
        ValueError: what the teacher would be trained from is ternary; and what the two recipes raise.
    """
    if config.teacher is None:
        stage_0, own = config.teacher_config, Run(Path(config.out))
        if not config.resume:
            own.check_free(config.overwrite)
        if load_embedder(stage_0.backbone, trainable=True).is_ternary:
            raise ValueError(
                f"{stage_0.backbone} is ternary and cannot become a teacher: give --teacher-backbone"
            )
        for number, record in enumerate(whole_run(teacher, stage_0)):
            if number == 0 and config.overwrite and own.exists and PartialState().is_main_process:
                with atomic_path(own.path) as nothing:
                    nothing.mkdir()
            yield record
        if not Run(Path(stage_0.out)).finished:
            return
    yield from whole_run(distill, config.student_config)


def planned_stages(config: StagesConfig) -> list[Stage]:
    """What `teach_and_distill` would train, for a look ahead: in the place of a teacher that is still to be trained stands
    the model that it is made from, which is as large."""
    student = config.student_config
    if config.teacher is not None:
        return [distill_stage(student)]
    untrained_teacher = replace(student, teacher=config.teacher_config.backbone)
    return [teacher_stage(config.teacher_config), distill_stage(untrained_teacher)]


def whole_run(recipe: Callable[[Config], Iterator[Record]], config: Config) -> Iterator[Record]:
    """All records of a run, those from before it was resumed first."""
    fresh = recipe(config)
    record = next(fresh)
    if config.resume:
        yield from (old for old in Run(Path(config.out)).records() if old["step"] < record["step"])
    yield record
    yield from fresh


def untrained(config: DistillConfig) -> BitEmbedder:
    """What `config` trains, as it would be with ternary weights and calibrated norms but without any training."""
    sources = load_examples(config.triplets, "triplets", limit_per_source=config.calibration_texts)
    embedder = load_embedder(origin_of(config.backbone), trainable=True)
    embedder.convert(config.sites, sample_texts(sources, config.calibration_texts, config.seed))
    return embedder


def origin_of(model: str) -> str:
    """What `model` was made from: the backbone at the beginning of a chain of runs, or `model` itself.

    A run is named by its folder or by the model folder inside it.
    """
    for folder in (Path(model), Path(model).parent):
        if Run(folder).exists:
            return origin_of(Run(folder).config["backbone"])
    return model
