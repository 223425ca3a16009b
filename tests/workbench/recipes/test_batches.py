"""The batch schedule: one source a step, decided by sources, seed and step alone; epochs cover it all."""

import logging
from collections import Counter

import numpy as np
import pytest

from workbench.catalog.example import Example, ExampleSource
from workbench.recipes.batches import BatchSchedule


def source(name: str, size: int, negatives: int = 0, in_batch: bool = True) -> ExampleSource:
    examples = [
        Example(f"{name} q{i}", f"{name} p{i}", tuple(f"{name} n{i}.{k}" for k in range(negatives)))
        for i in range(size)
    ]
    return ExampleSource(name, "made up", "none", examples, in_batch)


def test_a_batch_is_one_source_and_its_texts_belong_together() -> None:
    sources = [source("a", 40), source("b", 90, negatives=3)]
    schedule = BatchSchedule(sources, 8, seed=1, hard_negatives=2)
    by_name = {s.name: s for s in sources}
    for step in range(30):
        batch = schedule.batch(step)
        examples = [by_name[batch.source].examples[i] for i in batch.indices]
        assert len(batch) == 8
        assert batch.queries == tuple(e.query for e in examples)
        assert batch.positives == tuple(e.positive for e in examples)
        for chosen, example in zip(batch.negatives, examples, strict=True):
            assert len(set(chosen)) == len(chosen) == (2 if batch.source == "b" else 0)
            assert set(chosen) <= set(example.negatives)


def test_any_step_can_be_asked_for_in_any_order() -> None:
    sources = [source("a", 40), source("b", 90)]
    walked = BatchSchedule(sources, 8, seed=1)
    in_order = [walked.batch(step) for step in range(25)]
    for step in (24, 3, 17):
        assert BatchSchedule(sources, 8, seed=1).batch(step) == in_order[step]
    assert [BatchSchedule(sources, 8, seed=2).batch(step) for step in range(25)] != in_order


def test_epochs_cover_the_source_without_repeats_and_differ_in_order() -> None:
    schedule = BatchSchedule([source("a", 43)], 8, seed=0)
    epochs = [
        [i for step in range(5) for i in schedule.batch(5 * epoch + step).indices] for epoch in range(8)
    ]
    for epoch in epochs:
        assert len(set(epoch)) == 40
    assert epochs[0] != epochs[1]
    assert set().union(*map(set, epochs)) == set(range(43))


def test_sources_are_drawn_by_the_square_root_of_their_size() -> None:
    schedule = BatchSchedule([source("small", 100), source("large", 900)], 4, seed=5)
    drawn = Counter(schedule.batch(step).source for step in range(1000))
    assert drawn["large"] / 1000 == pytest.approx(0.75, abs=0.04)


def test_slices_of_the_ranks_and_micro_batches_join_to_the_batch() -> None:
    batch = BatchSchedule([source("a", 48, negatives=3)], 24, seed=0, hard_negatives=3).batch(1)
    ranks = [batch.part(rank, 2) for rank in range(2)]
    assert [index for part in ranks for index in part.indices] == list(batch.indices)
    nested = [batch.part(micro, 3).part(rank, 2) for micro in range(3) for rank in range(2)]
    for field in ("indices", "queries", "positives", "negatives"):
        assert sum((getattr(part, field) for part in nested), ()) == getattr(batch, field)
    assert all(part.source == "a" and len(part) == 4 for part in nested)


def test_few_negatives_are_repeated_and_sources_are_split_by_having_them() -> None:
    mixed = source("m", 20, negatives=1)
    mixed.examples.extend(source("bare", 30).examples)
    schedule = BatchSchedule([mixed], 10, seed=0, hard_negatives=3)
    kinds = set()
    for step in range(20):
        batch = schedule.batch(step)
        kinds.add(len(batch.negatives[0]))
        for index, negatives in zip(batch.indices, batch.negatives, strict=True):
            assert negatives == ((f"m n{index}.0",) * 3 if index < 20 else ())
            assert (index < 20) == bool(batch.negatives[0])
    assert kinds == {0, 3}


def test_the_choice_among_many_negatives_changes() -> None:
    schedule = BatchSchedule([source("a", 8, negatives=6)], 8, seed=0, hard_negatives=2)
    seen = Counter(text for step in range(40) for chosen in schedule.batch(step).negatives for text in chosen)
    assert len(seen) == 48


def test_equal_texts_stay_out_of_each_others_batch() -> None:
    generator = np.random.default_rng(0)
    examples = [Example(f"q{i}", f"p{generator.integers(60)}") for i in range(240)]
    schedule = BatchSchedule([ExampleSource("passages", "made up", "none", examples)], 16, seed=0)
    indices = []
    for step in range(15):
        batch = schedule.batch(step)
        indices += batch.indices
        if step < 12:  # the last batches of an epoch get what was put off
            assert len(set(batch.positives)) == 16
    assert sorted(indices) == list(range(240))


def test_a_source_of_equal_texts_still_fills_its_batches() -> None:
    examples = [Example(f"q{i}", "the same") for i in range(100)]
    schedule = BatchSchedule([ExampleSource("labels", "made up", "none", examples)], 8, seed=0)
    indices = [i for step in range(12) for i in schedule.batch(step).indices]
    assert len(indices) == len(set(indices)) == 96


def test_sources_that_cannot_serve_are_left_out_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bitembed"):
        schedule = BatchSchedule(
            [source("good", 20), source("tiny", 3), source("labels", 50, in_batch=False)], 8, seed=0
        )
    assert {schedule.batch(step).source for step in range(20)} == {"good"}
    assert "tiny: 3 examples without hard negatives left out: fewer than a batch of 8" in caplog.text
    assert "labels: 50 examples left out: no hard negatives" in caplog.text


def test_the_in_batch_flag_travels() -> None:
    labels = source("labels", 50, negatives=2, in_batch=False)
    assert not BatchSchedule([labels], 8, seed=0, hard_negatives=2).batch(0).in_batch
    assert BatchSchedule([source("pairs", 50)], 8, seed=0).batch(0).in_batch


@pytest.mark.parametrize("sources", [[], [source("tiny", 3)]])
def test_no_usable_source_is_an_error(sources: list[ExampleSource]) -> None:
    with pytest.raises(ValueError, match="no source of examples can fill a batch of 8"):
        BatchSchedule(sources, 8, seed=0)
