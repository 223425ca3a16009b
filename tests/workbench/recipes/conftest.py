"""Made-up text, and trainings of a tiny BERT on it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from bitembed_core import BitEmbedder
from bitembed_core.conversion import learn_scales
from workbench.catalog.example import Example, ExampleSource
from workbench.recipes.batches import BatchSchedule
from workbench.recipes.dev_set import DevSet
from workbench.recipes.engine import Training
from workbench.recipes.objective import Objective
from workbench.recipes.settings import TrainingConfig
from workbench.runs import Run

WORDS = [f"w{i}" for i in range(60)]


def make_source(name: str, size: int, negatives: int = 0, seed: int = 0) -> ExampleSource:
    """Queries of three words; the positive repeats them among others, hard negatives repeat one."""
    generator = np.random.default_rng(seed)

    def words(count: int) -> list[str]:
        return [WORDS[i] for i in generator.integers(len(WORDS), size=count)]

    examples = []
    for _ in range(size):
        query = words(3)
        positive = query + words(int(generator.integers(1, 9)))
        hard = tuple(" ".join(query[:1] + words(4)) for _ in range(negatives))
        examples.append(Example(" ".join(query), " ".join(positive), hard))
    return ExampleSource(name, "made up", "none", examples)


@pytest.fixture(scope="session")
def made_up_source() -> Callable[..., ExampleSource]:
    return make_source


@pytest.fixture(scope="session")
def make_teacher(make_embedder: Callable[[str], BitEmbedder]) -> Callable[..., BitEmbedder]:
    """A floating-point model like the student's before conversion, but not quite."""

    def make(architecture: str = "bert") -> BitEmbedder:
        teacher = make_embedder(architecture)
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in teacher.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        return teacher

    return make


@pytest.fixture
def make_training(
    tmp_path: Path,
    make_embedder: Callable[[str], BitEmbedder],
    make_teacher: Callable[..., BitEmbedder],
) -> Callable[..., Training]:
    """A Training of a tiny model, ternary or not, in folder `config.out` of tmp_path; resumed if begun."""

    def make(
        config: TrainingConfig,
        ternary: bool = True,
        sources: list[ExampleSource] | None = None,
        architecture: str = "bert",
        learned_scales: bool = False,
        teacher_vectors: Path | None = None,
    ) -> Training:
        dev_set = None
        student = make_embedder(architecture)
        if ternary:
            student.convert()
        if learned_scales:
            learn_scales(student.model)
        run = Run(tmp_path / config.out)
        if not run.exists:
            run = Run.create(run.path, config)
        sources = sources or [make_source("a", 64, negatives=2), make_source("b", 40, seed=1)]
        if config.dev_every is not None:
            dev_set, sources = DevSet.hold_out(sources, config.dev_examples, config.seed)
        hard_negatives = getattr(config, "hard_negatives", 0)
        objective = Objective.of(config)
        return Training(
            stage="test",
            config=config,
            run=run,
            accelerator=Accelerator(cpu=True, mixed_precision="no"),
            schedule=BatchSchedule(sources, config.batch_size, config.seed, hard_negatives),
            objective=objective,
            student=student,
            teacher=make_teacher(architecture) if objective.imitates else None,
            dev_set=dev_set,
            teacher_vectors=teacher_vectors,
        )

    return make
