"""The six notebooks: their main controls, and settings with which they show real results within minutes on two cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from workbench.config import option, to_arguments
from workbench.recipes.convert import ConvertConfig
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import StagesConfig


class Move(NamedTuple):
    """What a visitor does, as a method of `AppPage` and its arguments, and what that changes, as `AppPage.seen` has it."""

    verb: Literal["choose", "enter", "slide", "press"]
    arguments: tuple[str, ...]
    changes: str


RECALL = "Share of 10 neighbours found"
RETENTION = "What is kept, at how many bytes"
WEIGHTS = "Latent weights and their ternary values"
ANSWERS = "css=.bitembed .card"
# The estimate's table; the comparison of runs has another one.
TRAINING = (
    Move("press", ("Estimate the cost",), "css=.bitembed tr:has-text('tokens in a step')"),
    Move("choose", ("Flipping weights",), "Flipping weights"),
)
APPS: dict[str, tuple[Move, ...]] = {
    "convert": (
        Move("choose", ("attention.self.query", "Projection"), WEIGHTS),
        Move("slide", ("Layer",), WEIGHTS),
        Move("choose", ("output", "Norms"), "css=.bitembed svg"),
    ),
    "pretrain": TRAINING,
    "distill": TRAINING,
    "attention_relations": (
        Move("choose", ("V-V",), "Teacher"),
        Move("choose", ("0", "Layer"), "Student before distillation"),
        Move("choose", ("1", "Head"), "Teacher"),
        Move("choose", ("1 (BitDistill)", "Temperature"), "Divergence by layer"),
        Move(
            "enter",
            ("Or type your own and press Enter", "How do tides follow the moon?"),
            "Divergence by token",
        ),
    ),
    "storage_explorer": (
        Move("choose", ("own float32",), RETENTION),
        Move("choose", ("int8", "Rescore with"), RECALL),
        Move("choose", ("symmetric",), RECALL),
        Move("slide", ("Candidates per neighbour",), RECALL),
        Move("enter", ("Query", "how do tides follow the moon"), ANSWERS),
        Move("choose", ("Memory", "Show"), "Memory"),
        Move("choose", ("Money per month", "Show"), "Money per month"),
        Move("choose", ("1,000,000", "Vectors"), "Money per month"),
        Move("enter", ("Dimensions", "768"), "Money per month"),
        Move("enter", ("Replicas", "2"), "Money per month"),
        Move("enter", ("Queries per second", "5000"), "css=.bitembed tr:has-text('float16')"),
        Move("enter", ("Price of a GB of memory", "5"), "Money per month"),
    ),
    "deploy": (
        Move("enter", ("Query", "how do tides follow the moon"), ANSWERS),
        Move("slide", ("Hits",), ANSWERS),
        Move("press", ("Load and measure",), "Speed on this machine"),
    ),
}
NAMES = tuple(APPS)


@dataclass(frozen=True)
class ShowcaseConfig:
    """Which notebooks are shown, and with what."""

    out: str = option("build/showcase", "folder of what is made")
    notebooks: tuple[str, ...] = option(NAMES, "which notebooks, in this order")
    model: str | None = option(
        None,
        "ternary model or run for the notebooks that look at one; none is what the notebook `distill` trains here in a "
        "few steps",
    )
    runs: str = option("runs/showcase", "folder of the runs behind what is shown")

    def __post_init__(self) -> None:
        for name in self.notebooks:
            if name not in NAMES:
                raise ValueError(f"no notebook {name!r}; there are {', '.join(NAMES)}")


def arguments(config: ShowcaseConfig) -> dict[str, list[str]]:
    """The command line of each notebook: small, real, and started at once."""
    runs = Path(config.runs)
    student = config.model or str(runs / "distill")
    convert = ConvertConfig(backbone="minilm", out=str(runs / "convert"), overwrite=True)
    pretrain = PretrainConfig(
        backbone="minilm",
        teacher="minilm",
        out=str(runs / "pretrain"),
        pairs="demo",
        limit_per_source=2000,
        steps=60,
        batch_size=16,
        learning_rate=6e-4,
        max_length=48,
        contrastive_weight=0.02,
        similarity_weight=0.0,
        dev_every=20,
        dev_examples=100,
        watch_every=10,
        save_every=60,
        overwrite=True,
    )
    distill = StagesConfig(
        backbone=str(runs / "pretrain"),
        teacher="minilm",
        out=str(runs / "distill"),
        triplets="demo",
        limit_per_source=1000,
        steps=30,
        batch_size=8,
        hard_negatives=2,
        learning_rate=1e-4,
        max_length=48,
        relation_weight=0.03,
        relation_heads=12,
        relation_temperature=0.1,
        dev_every=10,
        dev_examples=100,
        watch_every=5,
        save_every=30,
        cap=50,
        overwrite=True,
    )
    return {
        "convert": [*to_arguments(convert), "--run"],
        "pretrain": [*to_arguments(pretrain), "--run"],
        "distill": [*to_arguments(distill), "--run"],
        "attention_relations": ["--student", student, "--out", str(runs / "attention_relations"), "--run"],
        "storage_explorer": ["--model", student, "--out", str(runs / "storage_explorer"), "--run"],
        "deploy": ["--model", student, "--out", str(runs / "deploy"), "--run"],
    }
