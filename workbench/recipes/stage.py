"""From a configuration to a running stage: load the examples and the models, open the run, train."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bitembed_core import BitEmbedder
from bitembed_core.conversion import learn_scales
from bitembed_core.embedding_table import TablePrecision
from workbench.catalog.example import ExampleSource
from workbench.catalog.examples import MIXES, Kind, is_streamed, load_examples, parts_of
from workbench.catalog.models import load_embedder
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.sources import TRIPLETS
from workbench.catalog.streamed import Source
from workbench.catalog.task_folder import read_task_folder
from workbench.catalog.tasks import available_tasks
from workbench.centring import take_out_mean
from workbench.recipes.batches import BatchSchedule
from workbench.recipes.dev_set import DevSet
from workbench.recipes.engine import Training
from workbench.recipes.mining import mine_negatives
from workbench.recipes.objective import Objective
from workbench.recipes.settings import Record, TrainingConfig
from workbench.recipes.sharding import make_accelerator
from workbench.rotation import ROTATION_TEXTS, RotationKind, rotate
from workbench.runs import Run

logger = logging.getLogger("bitembed")

CALIBRATION_STREAM = 3  # of the run's seed; the batches have the ones before it


@dataclass(frozen=True)
class Examples:
    """What a stage learns from: `spec` and `kind` as `load_examples` takes them, and hard negatives per
    query."""

    spec: str
    kind: Kind
    hard_negatives: int = 0
    mine: bool = False
    mining_margin: float = 0.95


@dataclass(frozen=True)
class Conversion:
    """How a backbone that is not ternary yet becomes so."""

    sites: Literal["all", "output", "none"]
    calibration_texts: int
    learned_scales: bool = False
    token_table: TablePrecision = "float16"


@dataclass(frozen=True)
class Stage:
    """One stage of training: what a recipe makes of its configuration.

    `teacher` is the model to imitate and to mine negatives with, as the catalog names it. Without a `conversion` the
    backbone is trained as it is. The mean of the teacher's vectors of `centre_texts` texts is taken out of both models'
    vectors, unless that is 0. The student's are then turned by `rotation`, and so are a teacher's that have none of their
    own; "none" keeps the backbone's. Formats will keep the first `rotation_keeps` of "principal" axes, None for all.
    `teacher_vectors` is the folder that keeps the teacher's. After the last step the student's vectors are mapped to the
    teacher's, by those of `output_map_texts` texts, unless that is 0.
    """

    name: str
    config: TrainingConfig
    examples: Examples
    teacher: str | None = None
    conversion: Conversion | None = None
    rotation: RotationKind = "none"
    rotation_keeps: int | None = None
    centre_texts: int = 0
    teacher_vectors: str | None = None
    output_map_texts: int = 0


def run_stage(stage: Stage) -> Iterator[Record]:
    """Train the backbone of `stage` in a run folder of its own, and yield a record per step.

    Raises:
        FileExistsError: there is a run in `config.out`, and it is neither to be resumed nor overwritten.
        FileNotFoundError: there is no run in `config.out` to resume, or no such model or source.
        RunInUse: another process trains in `config.out`.
        ValueError: the settings do not fit the run that is resumed, the models or the examples.
        TrainingDiverged: a loss or gradient was not finite.
    """
    config = stage.config
    run = Run(Path(config.out))
    if config.resume:
        run.check_config(config)
    else:
        run.check_free(config.overwrite)
    training = prepare(stage)
    accelerator, data = training.accelerator, training.schedule.data
    if config.resume:
        run.check_data(data)
    with ExitStack() as after:
        if accelerator.is_main_process:
            if not config.resume:
                Run.create(config.out, config, config.overwrite)
            after.enter_context(run.claimed())
            run.keep_data(data)
            processes = accelerator.num_processes
            logger.info(
                "%s: %s, %s, processes: %d", stage.name, accelerator.device, training.dtype, processes
            )
        accelerator.wait_for_everyone()
        if config.tracker is not None:
            accelerator.init_trackers(stage.name)
        for tracker in accelerator.trackers:
            after.callback(tracker.finish)
        yield from training.records()


def prepare(stage: Stage) -> Training:
    """Load the examples and the models of `stage`, and make the student ternary; nothing is written."""
    config, examples = stage.config, stage.examples
    accelerator = make_accelerator(log_with=config.tracker, project_dir=config.out)
    if config.tracker is not None and not accelerator.log_with:
        raise ValueError(f"the tracker {config.tracker!r} is not installed; install it, or do without one")
    device = str(accelerator.device)
    with accelerator.main_process_first():  # the other processes find downloads and mined negatives cached
        student = load_embedder(config.backbone, device=device, trainable=True)
        teacher = load_embedder(stage.teacher, device=device) if stage.teacher is not None else None
        sources = load_sources(examples, config, miner=teacher or student)
    dev_set = None
    if config.dev_every is not None:
        dev_set, sources = DevSet.hold_out(sources, config.dev_examples, config.seed)
    schedule = BatchSchedule(sources, config.batch_size, config.seed, examples.hard_negatives)
    if stage.conversion is not None and not student.is_ternary:
        texts = sample_texts(sources, stage.conversion.calibration_texts, config.seed)
        student.convert(stage.conversion.sites, texts or None, stage.conversion.token_table)
        if stage.conversion.learned_scales:
            learn_scales(student.model)
    if student.provenance.token_table and not config.freeze_token_embeddings:
        raise ValueError(
            f"the token table has been rounded to {student.provenance.token_table} and is to stay so: it cannot be trained; "
            "leave freeze_token_embeddings on, or convert with token_table float16"
        )
    _share_space(stage, sources, student, teacher)
    run, objective = Run(Path(config.out)), Objective.of(config)
    kept = None if stage.teacher_vectors is None else Path(stage.teacher_vectors)
    mapped = sample_texts(sources, stage.output_map_texts, config.seed) if stage.output_map_texts else []
    return Training(
        stage.name, config, run, accelerator, schedule, objective, student, teacher, dev_set, kept, mapped
    )


def _share_space(
    stage: Stage, sources: Sequence[Source], student: BitEmbedder, teacher: BitEmbedder | None
) -> None:
    """Give `student` its centre and rotation, and the same ones to a teacher of as many dimensions: imitating its vectors
    would undo the student's otherwise."""
    alike = teacher if teacher is not None and teacher.dimension == student.dimension else None
    seed = stage.config.seed
    if stage.centre_texts:
        take_out_mean(student, sample_texts(sources, stage.centre_texts, seed), measured_on=alike)
    if alike is not None:
        alike.centre = student.centre = student.centre or alike.centre
    if stage.rotation != "none":
        texts = sample_texts(sources, ROTATION_TEXTS, seed)
        rotate(student, stage.rotation, texts, seed, stage.rotation_keeps, fitted_to=teacher)
    if alike is not None and alike.rotation is None:
        alike.rotation = student.rotation


def load_sources(examples: Examples, config: TrainingConfig, miner: BitEmbedder) -> list[Source]:
    """The training examples without those that overlap evaluation text, with mined negatives if asked for.

    Where negatives are mined, files, hub data sets and sources of pairs need not bring any; they are mined in memory only.
    """
    exclude = overlap_filter(config.exclude_tasks)
    sources: list[Source] = []
    for part in parts_of(examples.spec):
        has_negatives = part in MIXES or part in TRIPLETS or is_streamed(part)
        kind = "pairs" if examples.mine and not has_negatives else examples.kind
        sources += load_examples(
            part, kind, exclude=exclude, limit_per_source=config.limit_per_source, seed=config.seed
        )
    if examples.mine and examples.hard_negatives:
        count, margin = examples.hard_negatives, examples.mining_margin
        sources = [
            mine_negatives(source, miner, count, margin) if isinstance(source, ExampleSource) else source
            for source in sources
        ]
    return sources


def overlap_filter(tasks: str) -> OverlapFilter | None:
    """The filter against evaluation `tasks`: "offline", names joined by commas, a folder, or "" for none."""
    if not tasks:
        return None
    if tasks == "offline":
        return OverlapFilter.from_tasks(available_tasks()[0])
    if os.path.isdir(tasks):
        return OverlapFilter.from_tasks(read_task_folder(Path(tasks)))
    return OverlapFilter.from_tasks(available_tasks(tasks.split(","))[0])


def sample_texts(sources: Sequence[Source], count: int, seed: int) -> list[str]:
    """About `count` texts, queries and positives in turn, the same number from each source."""
    generator = np.random.default_rng([seed, CALIBRATION_STREAM])
    texts: list[str] = []
    for source in sources:
        for number, example in enumerate(source.sample(-(-count // len(sources)), generator)):
            texts.append(example.positive if number % 2 else example.query)
    return texts
