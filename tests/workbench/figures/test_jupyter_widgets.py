"""The form of ipywidgets: every field has an input, and what is entered is what the recipe gets."""

from dataclasses import fields

import pytest

from workbench.figures.jupyter import SettingsForm, follow
from workbench.recipes.stages import StagesConfig


def test_every_field_has_an_input_with_its_value():
    config = StagesConfig(steps=7, bits=(2, "int2-fitted"), teacher=None, mine=False, sites="output")
    form = SettingsForm(config, main=("steps", "out"))
    assert set(form.inputs) == {item.name for item in fields(StagesConfig)}
    assert form.config == config


def test_entered_values_are_taken_or_refused_in_words():
    form = SettingsForm(StagesConfig(), main=("steps",))
    form.inputs["bits"].value = "1,<b>"
    form.inputs["mine"].value = False
    assert form.config == StagesConfig(bits=(1, "<b>"), mine=False)
    form.inputs["learning_rate"].value = "<fast>"
    assert "learning-rate" in form.complaint.value
    assert "&lt;fast&gt;" in form.complaint.value
    with pytest.raises(ValueError, match="learning-rate"):
        _ = form.config
    form.inputs["learning_rate"].value = "1e-4"
    assert form.complaint.value == ""


def test_follow_draws_the_first_and_the_last_and_returns_all():
    lengths = []
    assert follow(iter("abc"), lambda so_far: lengths.append(len(so_far)), every_seconds=60) == [
        "a",
        "b",
        "c",
    ]
    assert lengths == [1, 3]
    assert follow(iter(""), lengths.append) == []
    assert lengths == [1, 3]
