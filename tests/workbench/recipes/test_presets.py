"""Recipes fit together, name things that exist, and are the paper's where it says something."""

import pytest

from workbench.catalog.models import MODELS
from workbench.catalog.sources import PAIRS
from workbench.config import parse_config
from workbench.recipes.presets import DISTILL_RECIPES, MINILM_PAIRS, PRETRAIN_RECIPES, RECIPES
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import StagesConfig


@pytest.mark.parametrize("name", RECIPES)
def test_stage_2_goes_on_from_stage_1(name) -> None:
    recipe = RECIPES[name]
    assert recipe.distill.backbone == recipe.pretrain.out
    assert recipe.pretrain.backbone in MODELS
    outs = [r.out for each in RECIPES.values() for r in (each.pretrain, each.distill)]
    assert len(set(outs)) == len(outs)
    assert parse_config(PretrainConfig, ["--recipe", name], PRETRAIN_RECIPES)[0] == recipe.pretrain
    assert parse_config(StagesConfig, ["--recipe", name], DISTILL_RECIPES)[0] == recipe.distill


@pytest.mark.parametrize(("name", "layer"), [("gemma3-270m", 10), ("qwen3-0.6b", 18)])
def test_what_the_paper_gives(name, layer) -> None:
    for gpus in (1, 8):
        stage_2 = RECIPES[f"{name}-{gpus}gpu"].distill
        assert stage_2.relation_layer == layer - 1
        assert (stage_2.batch_size, stage_2.hard_negatives, stage_2.learning_rate) == (128, 7, 3e-5)
        assert (stage_2.similarity_weight, stage_2.relation_weight, stage_2.temperature) == (0.2, 1e4, 0.02)
        assert stage_2.bits == (1, 2, 4, 8, 16)
        assert stage_2.teacher_learning_rate == 5e-6
        stage_1 = RECIPES[f"{name}-{gpus}gpu"].pretrain
        assert (stage_1.teacher, stage_1.contrastive_weight, stage_1.temperature) == (None, 1.0, 0.02)
    pairs = stage_1.steps * stage_1.batch_size
    assert pairs == pytest.approx(1e9, rel=0.05)


def test_training_text_of_minilm_is_there() -> None:
    assert set(MINILM_PAIRS.split(",")) <= PAIRS.keys()
