"""The form and the loop behind an app: what the command line refuses, the form refuses."""

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest

from workbench.config import option
from workbench.figures import interactive


@dataclass(frozen=True)
class Settings:
    """Settings of a test."""

    steps: int = option(10, "optimiser <steps>")
    rate: float = option(1e-5, "learning rate")
    decay: Literal["cosine", "linear"] = option("cosine", "decay")
    margin: float | None = option(None, "margin")
    bits: tuple[int, ...] = option((1, 2), "bits")
    frozen: bool = option(True, "rows of {text}")

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


AS_ENTERED = {
    "steps": "5",
    "rate": "3e-4",
    "decay": "linear",
    "margin": "none",
    "bits": "4,8",
    "frozen": False,
}


def test_form_shows_the_main_fields_and_folds_the_others():
    page = interactive.settings_form(Settings(), main=("steps", "rate")).text
    before, folded = page.split("<details>")
    assert re.search(r"<code>steps</code>.*<code>rate</code>", before)
    assert "4 more settings" in folded
    assert "optimiser &lt;steps&gt;" in before
    assert "rows of {text}" in folded


def test_entered_values_become_a_configuration():
    form = SimpleNamespace(value=AS_ENTERED)
    chosen = interactive.chosen_settings(Settings(), form)
    assert chosen == Settings(5, 3e-4, "linear", None, (4, 8), False)


def test_a_form_left_alone_changes_nothing():
    settings = Settings(steps=7)
    assert interactive.chosen_settings(settings, SimpleNamespace(value=None)) is settings


@pytest.mark.parametrize(("name", "value"), [("steps", "0"), ("steps", "many"), ("decay", "never")])
def test_refused_values_are_reported_in_a_page(monkeypatch, name, value):
    monkeypatch.setattr("marimo.app_meta", lambda: SimpleNamespace(mode="run"))
    form = interactive.settings_form(Settings(), main=())
    complaint = form.validate(AS_ENTERED | {"decay": ["linear"], name: [value] if name == "decay" else value})
    assert name in complaint
    assert form.validate(AS_ENTERED | {"decay": ["linear"]}) is None


def test_follow_shows_in_a_page_only(monkeypatch):
    shown = []
    assert interactive.follow(iter("abc"), shown.append, every_seconds=0) == ["a", "b", "c"]
    assert shown == []
    monkeypatch.setattr("marimo.app_meta", lambda: SimpleNamespace(mode="run"))
    lengths = []
    interactive.follow(iter("abc"), lambda so_far: lengths.append(len(so_far)), every_seconds=0)
    assert lengths == [1, 2, 3, 3]


def test_errors_pass_outside_an_app():
    with pytest.raises(ValueError, match="why"), interactive.errors_in_words():
        raise ValueError("why")


def test_training_page_says_how_far_and_how_long():
    records = [
        {
            "stage": "distill",
            "step": s,
            "steps": 100,
            "loss": 1.0,
            "seconds": 2.0,
            "tokens_per_second": 1234.0,
        }
        for s in (1, 2, 40)
    ]
    page = interactive.training_page(records).text
    assert "step 40 of 100, 1,234 tokens/s, about 2 min left" in page
    done = interactive.training_page([*records, {**records[-1], "step": 100}]).text
    assert "step 100 of 100" in done
    assert "left" not in done.split("step 100 of 100")[1][:30]
