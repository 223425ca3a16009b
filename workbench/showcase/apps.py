"""The six notebooks: their main controls, and settings with which they show real results within minutes on two cores."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from workbench.config import option, to_arguments
from workbench.recipes.convert import ConvertConfig
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import StagesConfig


class Move(NamedTuple):
    """An option of a dropdown or of radio buttons, the title of the figure that shows it, and the label if it takes one."""

    option: str
    figure: str
    label: str = ""


RECALL = "Share of 10 neighbours found"
APPS: dict[str, tuple[Move, ...]] = {
    "convert": (Move("attention.self.query", "Latent weights and their ternary values"),),
    "pretrain": (Move("Flipping weights", "Flipping weights"),),
    "distill": (Move("Flipping weights", "Flipping weights"),),
    "attention_relations": (
        Move("V-V", "Teacher"),
        Move("0", "Student before distillation", "Layer"),
    ),
    "storage_explorer": (
        Move("int8", RECALL, "Rescore with"),
        Move("symmetric", RECALL),
        Move("Memory", "Memory", "Show"),
    ),
    "deploy": (),
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
