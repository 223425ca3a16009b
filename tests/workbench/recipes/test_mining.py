"""Mined negatives against a slow loop; what may never become one; the cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitembed_core import BitEmbedder
from workbench.catalog.example import Example, ExampleSource
from workbench.recipes import mining
from workbench.recipes.mining import choose_negatives, mine_negatives

MakeSource = Callable[..., ExampleSource]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mining, "cache_root", lambda: tmp_path)
    return tmp_path / "mined"


def slow_choice(
    scores: np.ndarray, positive: int, forbidden: list[int], count: int, margin: float
) -> list[int]:
    """One query: every candidate in turn, best first."""
    chosen: list[int] = []
    limit = scores[positive] * (margin if scores[positive] > 0 else 2 - margin)
    for column in sorted(range(len(scores)), key=lambda c: -scores[c]):
        if column != positive and column not in forbidden and scores[column] <= limit:
            chosen.append(column)
    return chosen[:count]


@pytest.mark.parametrize("margin", [0.95, 0.5])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_choice_against_a_slow_loop(count: int, margin: float) -> None:
    generator = np.random.default_rng(3)
    scores = generator.uniform(-0.4, 1, size=(25, 40)).astype(np.float32)
    positives = generator.integers(40, size=25)
    forbidden = [[int(p), *map(int, generator.integers(40, size=2))] for p in positives]
    found = choose_negatives(scores, positives, forbidden, count, margin)
    for row in range(25):
        assert found[row] == slow_choice(scores[row], positives[row], forbidden[row], count, margin)


def test_negatives_obey_the_margin_and_are_the_hardest(
    make_teacher: Callable[[], BitEmbedder], made_up_source: MakeSource
) -> None:
    teacher, source = make_teacher(), made_up_source("a", 30)
    mined = mine_negatives(source, teacher, count=3, margin=0.97)
    found = 0
    for example, before in zip(mined.examples, source.examples, strict=True):
        assert (example.query, example.positive) == (before.query, before.positive)
        query = teacher.encode_query(example.query)
        scores = {e.positive: float(teacher.encode_document(e.positive) @ query) for e in source.examples}
        limit = 0.97 * scores[example.positive]
        allowed = sorted((score for text, score in scores.items() if score <= limit), reverse=True)
        assert [scores[text] for text in example.negatives] == pytest.approx(allowed[:3], abs=1e-6)
        found += len(example.negatives)
    assert found > 30


def test_what_is_right_for_the_query_is_no_negative(make_teacher: Callable[[], BitEmbedder]) -> None:
    rows = [("q", "first answer"), ("q", "second answer"), ("other", "q"), ("else", "third answer")]
    source = ExampleSource("a", "", "", [Example(*row) for row in rows])
    mined = mine_negatives(source, make_teacher(), count=9, margin=1.9)
    assert [set(e.negatives) for e in mined.examples] == [
        {"third answer"},
        {"third answer"},
        {"first answer", "second answer", "third answer"},
        {"first answer", "second answer", "q"},
    ]


def test_the_cache_answers_only_for_the_same_question(
    make_teacher: Callable[[], BitEmbedder],
    make_embedder: Callable[[str], BitEmbedder],
    made_up_source: MakeSource,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, teacher = made_up_source("a", 12), make_teacher()
    first = mine_negatives(source, teacher, 2)
    mine_negatives(source, teacher, 3)
    mine_negatives(source, make_embedder("bert"), 2)
    mine_negatives(made_up_source("a", 12, seed=9), teacher, 2)
    assert len(list(cache.iterdir())) == 4
    monkeypatch.setattr(mining, "_search", None)  # from here on everything comes from the cache
    assert mine_negatives(source, make_teacher(), 2) == first


def test_sources_that_need_nothing_or_allow_nothing_stay(
    make_teacher: Callable[[], BitEmbedder], made_up_source: MakeSource
) -> None:
    complete = made_up_source("a", 8, negatives=1)
    labels = ExampleSource("labels", "", "", made_up_source("b", 8).examples, in_batch=False)
    teacher = make_teacher()
    assert mine_negatives(complete, teacher, 2) is complete
    assert mine_negatives(labels, teacher, 2) is labels
