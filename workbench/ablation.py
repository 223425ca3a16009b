"""What each ingredient is worth: the whole recipe, and the same without one thing at a time (the paper's ablation table).

    python -m workbench.ablation --out runs/ablation

Every variant has the same budget, data and seed, a run folder for each stage, and one row of the table. Called again, it
goes on where it was interrupted. Variants with the same stage 1 share it.
"""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from bitembed_core.files import read_json, write_json
from workbench.catalog.models import load_embedder
from workbench.config import option, parse_config
from workbench.environment import environment
from workbench.evaluation import evaluate
from workbench.figures import Section, write_report
from workbench.figures.ablation import WHOLE, ablation_bars, ablation_table
from workbench.recipes.distill import DistillConfig, distill
from workbench.recipes.presets import RECIPES
from workbench.recipes.pretrain import PretrainConfig, pretrain
from workbench.recipes.stages import whole_run
from workbench.runs import Run, content_key

logger = logging.getLogger("bitembed")

Changes = Mapping[str, Any]
NOTHING: Changes = {}


@dataclass(frozen=True)
class Variant:
    """How a variant differs from the whole recipe: fields of both stages, or of stage 2 alone.

    Without `stage_1` stage 2 starts from the backbone.
    """

    about: str
    both: Changes
    distill: Changes
    stage_1: bool = True


NO_SCORE: Changes = {"similarity_weight": 0.0}
NO_RELATIONS: Changes = {"relation_weight": 0.0}
NO_IMITATION: Changes = {"regression_weight": 0.0, "output_map_texts": 0}
VARIANTS: dict[str, Variant] = {
    WHOLE: Variant("the whole recipe", {}, {}),
    "no-subln": Variant("without the projection norms", {"sites": "none"}, {}),
    "no-stage-1": Variant("without stage 1", {}, {}, stage_1=False),
    "no-score": Variant("without score distillation", {}, NO_SCORE),
    "no-relations": Variant("without attention relations", {}, NO_RELATIONS),
    "no-distillation": Variant(
        "without both, regression and output map", {}, {**NO_SCORE, **NO_RELATIONS, **NO_IMITATION}
    ),
    "no-output-map": Variant("without the output map", {}, {"output_map_texts": 0}),
    "no-precisions": Variant(
        "trained for float vectors only", {}, {"bits": (16,), "float_queries_weight": 0.0}
    ),
    "fine-tuning-only": Variant(
        "stage 2 with labels only, from the backbone",
        {},
        {**NO_SCORE, **NO_RELATIONS, **NO_IMITATION, "bits": (16,), "float_queries_weight": 0.0},
        stage_1=False,
    ),
}
RELATION_LAYERS = "relation-layer-"


@dataclass(frozen=True)
class AblationConfig:
    """Train and score every variant of a recipe with one budget."""

    out: str = option("runs/ablation", "folder of the runs, the table and the report")
    recipe: str = option("minilm-full", "the whole recipe")
    variants: tuple[str, ...] = option(
        (),
        f"which ones, by name; {RELATION_LAYERS}N distils relations at layer N; none for all and every second layer",
    )
    pretrain_steps: int = option(300, "steps of stage 1")
    distill_steps: int = option(150, "steps of stage 2")
    max_length: int = option(64, "tokens read of each text in training")
    tasks: str = option("offline", "evaluation, as `bitembed evaluate` takes it")
    cap: int = option(200, "shorten tasks to about this many queries and texts")
    precisions: tuple[str, ...] = option(
        ("float16", "int8", "int4", "int2", "binary"), "columns of the table"
    )
    seed: int = option(0, "decides the order of the examples")

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"no recipe {self.recipe!r}; choose one of {', '.join(RECIPES)}")
        for name in self.variants:
            variant(name)


def variant(name: str) -> Variant:
    """A variant by name; ValueError when there is none."""
    layer = name.removeprefix(RELATION_LAYERS)
    if name in VARIANTS:
        return VARIANTS[name]
    if layer != name and layer.isdigit():
        return Variant(f"relations at layer {layer}", {}, {"relation_layer": int(layer)})
    raise ValueError(f"no variant {name!r}; choose among {', '.join(VARIANTS)} and {RELATION_LAYERS}N")


def ablate(
    config: AblationConfig, pretrain_changes: Changes = NOTHING, distill_changes: Changes = NOTHING
) -> dict[str, Any]:
    """Train and score what is missing; returns what `results.json` in `config.out` holds.

    Args:
        pretrain_changes, distill_changes: settings that differ from the recipe's in every variant.
    """
    out = Path(config.out)
    name_of_teacher = configurations(config, WHOLE, pretrain_changes, distill_changes)[1].teacher
    if name_of_teacher is None:
        raise ValueError(f"the recipe {config.recipe} names no teacher; an ablation needs one")
    teacher = load_embedder(name_of_teacher)
    names = config.variants or (*VARIANTS, *_layers(teacher.model.config.num_hidden_layers))
    path, packages = out / "results.json", environment()["packages"]
    found: dict[str, Any] = read_json(path) if path.is_file() else {"variants": {}}
    for name in names:
        stage_1, stage_2 = configurations(config, name, pretrain_changes, distill_changes)
        stages = [stage for stage in (stage_1, stage_2) if stage is not None]
        key = [content_key(stage, packages) for stage in stages] + [
            config.tasks,
            str(config.cap),
            *config.precisions,
        ]
        if found["variants"].get(name, {}).get("key") == key:
            logger.info("%s: done already", name)
            continue
        logger.info("== %s: %s", name, variant(name).about)
        if stage_1 is not None:
            _finish(pretrain, stage_1)
        _finish(distill, stage_2)
        student = load_embedder(stage_2.out)
        results = evaluate(student, config.tasks, config.precisions, teacher, config.cap, name=name)
        found["variants"][name] = {
            "about": variant(name).about,
            "key": key,
            "mean": results["mean"],
            "mean_by_type": results["mean_by_type"],
            "tasks": results["tasks"],
            "runs": [Path(stage.out).name for stage in stages],  # in `config.out`
            "commit": results["commit"],
            "kernel": results["kernel"],
        }
        found |= {"caps": results["caps"], "environment": results["environment"], "recipe": config.recipe}
        found["steps"] = [config.pretrain_steps, config.distill_steps]
        write_json(path, found)
    return found


def configurations(
    config: AblationConfig, name: str, pretrain_changes: Changes = NOTHING, distill_changes: Changes = NOTHING
) -> tuple[PretrainConfig | None, DistillConfig]:
    """The settings of both stages of a variant; None for a stage 1 that it does without."""
    recipe, chosen = RECIPES[config.recipe], variant(name)
    common: dict[str, Any] = {"max_length": config.max_length, "seed": config.seed}
    stage_1 = replace(
        recipe.pretrain,
        **{**common, "steps": config.pretrain_steps, **pretrain_changes, **chosen.both},
        out=f"{config.out}/{'stage-1' if not chosen.both else name + '-stage-1'}",
    )
    fields = DistillConfig.__dataclass_fields__
    stage_2 = DistillConfig(**{field: getattr(recipe.distill, field) for field in fields})
    stage_2 = replace(
        stage_2,
        **{
            **common,
            "steps": config.distill_steps,
            "exclude_tasks": "offline",
            **distill_changes,
            **chosen.both,
            **chosen.distill,
        },
        backbone=stage_1.out if chosen.stage_1 else stage_1.backbone,
        out=f"{config.out}/{name}",
    )
    return (stage_1 if chosen.stage_1 else None), stage_2


def report(path: Path, results: Mapping[str, Any]) -> None:
    """Write the table and the plot as one HTML file."""
    steps = "{} + {} steps".format(*results["steps"])
    write_report(
        path,
        "What each ingredient is worth",
        f"Recipe {results['recipe']}, {steps} for every variant; scores by mteb, shortened tasks.",
        [
            Section(
                "Scores",
                "Mean over task types, times 100.",
                [ablation_table(results), ablation_bars(results)],
            )
        ],
    )


def _layers(depth: int) -> Iterable[str]:
    return (f"{RELATION_LAYERS}{layer}" for layer in range(0, depth, 2))


def _finish(recipe: Any, config: PretrainConfig | DistillConfig) -> None:
    """Run a stage to its end, from where it was interrupted; what was begun with other settings begins anew."""
    run = Run(Path(config.out))
    if run.exists:
        try:
            run.check_config(config)
        except ValueError:
            config = replace(config, overwrite=True)
        else:
            config = replace(config, resume=True)
    for _ in whole_run(recipe, config):
        pass


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    config, _ = parse_config(AblationConfig)
    results = ablate(config)
    report(Path(config.out) / "report.html", results)
    means = {name: round(100 * row["mean"]["float16"], 1) for name, row in results["variants"].items()}
    logger.info("%s", json.dumps(means, indent=1))


if __name__ == "__main__":
    main()
