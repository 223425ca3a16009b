"""Settings of the shown notebooks: every notebook has some, and its own command line takes them."""

import inspect
import re
from pathlib import Path

import pytest

from workbench.config import parse_config
from workbench.deploy import DeployConfig
from workbench.explorer.corpus import ExplorerConfig
from workbench.recipes.convert import ConvertConfig
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.stages import StagesConfig
from workbench.relations import RelationsConfig
from workbench.showcase.apps import APPS, NAMES, ShowcaseConfig, arguments
from workbench.showcase.chromium import AppPage
from workbench.showcase.pictures import PICTURES
from workbench.showcase.serving import NOTEBOOKS

CONFIGS = {
    "convert": ConvertConfig,
    "pretrain": PretrainConfig,
    "distill": StagesConfig,
    "attention_relations": RelationsConfig,
    "storage_explorer": ExplorerConfig,
    "deploy": DeployConfig,
}


def test_every_notebook_is_shown():
    without_server = {"storage_explorer_page"}
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == set(NAMES) | without_server


@pytest.mark.parametrize("name", CONFIGS)
def test_notebooks_take_their_settings_and_start_at_once(name):
    config, run_now = parse_config(CONFIGS[name], arguments(ShowcaseConfig(runs="some/runs"))[name])
    assert run_now
    assert config.out == f"some/runs/{name}"


def test_what_is_trained_on_the_way_is_shown_unless_a_model_is_named():
    own, given = arguments(ShowcaseConfig(runs="r")), arguments(ShowcaseConfig(runs="r", model="m"))
    assert parse_config(ExplorerConfig, own["storage_explorer"])[0].model == "r/distill"
    assert parse_config(ExplorerConfig, given["storage_explorer"])[0].model == "m"


@pytest.mark.parametrize("name", APPS)
def test_moves_are_what_a_visitor_can_do(name):
    assert APPS[name]
    for move in APPS[name]:
        inspect.signature(getattr(AppPage, move.verb)).bind(None, *move.arguments)


def test_unknown_notebooks_are_refused():
    with pytest.raises(ValueError, match="no notebook 'train'; there are convert, "):
        ShowcaseConfig(notebooks=("train",))


def test_readme_shows_small_pictures_that_are_there():
    shown = re.findall(
        r"\((docs/images/[^)]+)\)", (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    )
    assert {Path(name).stem for name in shown} == set(PICTURES)
    for name in shown:
        assert 0 < (NOTEBOOKS.parent / name).stat().st_size < 300_000
