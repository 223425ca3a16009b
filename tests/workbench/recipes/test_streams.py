"""Batches from shards: a function of seed and step, read a window at a time, and trained on to the same end."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from workbench.catalog import shards
from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.shards import RowGroup
from workbench.catalog.streamed import StreamedSource
from workbench.recipes import streams
from workbench.recipes.batches import BatchSchedule
from workbench.recipes.checkpoints import trained_parameters
from workbench.recipes.distill import DistillConfig
from workbench.recipes.engine import Training

Make = Callable[..., StreamedSource]


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of about 40 rows, or four batches if that is more."""
    monkeypatch.setattr(streams, "WINDOW_ROWS", 40)


@pytest.fixture
def sharded(tmp_path: Path) -> Make:
    """Writes examples as shards with small row groups of different sizes."""

    def make(name: str, examples: Sequence[Example], weight: float | None = None) -> StreamedSource:
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"query": e.query, "positive": e.positive, "negatives": list(e.negatives)} for e in examples]
        for number, start in enumerate(range(0, len(rows), 47)):
            table = pa.Table.from_pylist(rows[start : start + 47])
            pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=10)
        settings: dict[str, Any] = {} if weight is None else {"weight": weight}
        return StreamedSource.open(name, str(folder), "triplets", **settings)

    return make


def examples(count: int, name: str = "", negatives: int = 2) -> list[Example]:
    return [
        Example(f"{name}q{i}", f"{name}p{i}", tuple(f"{name}n{i}.{k}" for k in range(negatives)))
        for i in range(count)
    ]


def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each row group is read from now on."""
    counts: Counter[tuple[str, int]] = Counter()
    read = RowGroup.read

    def counting(self: RowGroup, columns: Sequence[str]) -> list[shards.Row]:
        counts[self.file, self.number] += 1
        return read(self, columns)

    monkeypatch.setattr(RowGroup, "read", counting)
    return counts


def test_any_step_can_be_asked_for_in_any_order(sharded: Make) -> None:
    sources = [sharded("a", examples(300, "a")), sharded("b", examples(200, "b"))]
    walked = BatchSchedule(sources, 8, seed=1, hard_negatives=2)
    in_order = [walked.batch(step) for step in range(90)]
    assert {batch.source for batch in in_order} == {"a", "b"}
    for step in (89, 3, 57, 0):
        assert BatchSchedule(sources, 8, seed=1, hard_negatives=2).batch(step) == in_order[step]
    assert [BatchSchedule(sources, 8, seed=2, hard_negatives=2).batch(step) for step in range(5)] != in_order[
        :5
    ]


def test_a_batch_is_one_source_and_its_texts_belong_together(sharded: Make) -> None:
    by_name = {name: examples(100, name, negatives=3) for name in ("a", "b")}
    schedule = BatchSchedule([sharded(n, e) for n, e in by_name.items()], 8, seed=0, hard_negatives=2)
    for step in range(40):
        batch = schedule.batch(step)
        expected = [by_name[batch.source][index] for index in batch.indices]
        assert batch.queries == tuple(e.query for e in expected)
        assert batch.positives == tuple(e.positive for e in expected)
        for chosen, example in zip(batch.negatives, expected, strict=True):
            assert len(set(chosen)) == 2
            assert set(chosen) < set(example.negatives)


def test_epochs_have_nearly_every_example_once_in_orders_that_cross_the_shards(sharded: Make) -> None:
    source = sharded("a", examples(400))
    walk = streams.StreamedWalk(source, 2, batch_size=8, seed=0, number=0)
    seen: Counter[int] = Counter()
    visit = 0
    for epoch in range(3):
        batches = walk._batches(epoch)
        indices = [index for turn in range(batches) for index, _ in walk.batch(visit + turn)]
        assert len(set(indices)) == len(indices) > 0.85 * 400
        seen.update(indices)
        visit += batches
    assert len(seen) == 400
    batch = [index for index, _ in walk.batch(0)]
    assert len({index // 47 for index in batch}) > 1  # shards
    assert batch != sorted(batch)


def test_only_the_row_groups_of_two_windows_are_read(sharded: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sharded("a", examples(2000))
    counts = reads(monkeypatch)
    walk = streams.StreamedWalk(source, 0, batch_size=8, seed=0, number=0)
    walk.batch(130)
    walk._ahead.shutdown(wait=True)
    assert 2 * 4 <= len(counts) <= 2 * 6  # of 215: this window and the next
    assert set(counts.values()) == {1}


def test_an_epoch_in_order_reads_every_row_group_once(sharded: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sharded("a", examples(500))
    counts = reads(monkeypatch)
    walk = streams.StreamedWalk(source, 0, batch_size=8, seed=0, number=0)
    for visit in range(walk._batches(0)):
        walk.batch(visit)
        assert len(walk._windows) == 2
    walk._ahead.shutdown(wait=True)
    assert len(counts) == len(source.blocks)
    assert sum(counts.values()) <= len(source.blocks) + 6  # the next epoch's first window is on its way


def test_weights_are_honoured(sharded: Make) -> None:
    sources = [
        sharded("large", examples(200), weight=1),
        sharded("small", examples(40), weight=3),
        ExampleSource("memory", "made up", "none", examples(500), weight=2),
    ]
    steps = 600
    schedule = BatchSchedule(sources, 4, seed=3)
    drawn = Counter(schedule.batch(step).source for step in range(steps))
    for name, share in (("large", 1 / 6), ("small", 3 / 6), ("memory", 2 / 6)):
        spread = math.sqrt(steps * share * (1 - share))
        assert abs(drawn[name] - steps * share) < 3 * spread
    with pytest.raises(
        ValueError, match="give every source a weight in the mixture, or none: small has none"
    ):
        BatchSchedule([sources[0], replace(sources[1], weight=None)], 4, seed=3)


def test_without_weights_the_square_roots_of_the_sizes_count(sharded: Make) -> None:
    schedule = BatchSchedule([sharded("small", examples(100)), sharded("large", examples(900))], 4, seed=5)
    drawn = Counter(schedule.batch(step).source for step in range(600))
    assert drawn["large"] / 600 == pytest.approx(0.75, abs=0.05)


def test_the_filter_reaches_streamed_rows_and_batches_stay_full(
    sharded: Make, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = "one two three four five six seven eight nine ten"
    rows = [Example(f"q{i}", f"{evaluation} {i}" if i % 5 == 0 else f"p{i}", (f"n{i}",)) for i in range(200)]
    source = replace(sharded("a", rows), exclude=OverlapFilter([evaluation]))
    with caplog.at_level("INFO", "bitembed"):
        batches = [BatchSchedule([source], 8, seed=0).batch(step) for step in range(0, 60, 7)]
    assert all(len(set(batch.indices)) == 8 for batch in batches)
    assert not any(index % 5 == 0 for batch in batches for index in batch.indices)
    assert "examples passed over" in caplog.text


def test_data_of_which_nothing_can_be_used_are_an_error(sharded: Make) -> None:
    source = sharded("a", [Example(" ", "p")] * 40)
    with pytest.raises(ValueError, match=r"a: no example of .*000.parquet can be used"):
        BatchSchedule([source], 8, seed=0).batch(0)


def test_equal_texts_stay_out_of_each_others_batch(sharded: Make) -> None:
    generator = np.random.default_rng(0)
    source = sharded("a", [Example(f"q{i}", f"p{generator.integers(60)}", ("n",)) for i in range(240)])
    schedule = BatchSchedule([source], 16, seed=0)
    distinct = [len(set(schedule.batch(step).positives)) for step in range(12)]
    assert sum(distinct) > 0.95 * 12 * 16
    assert min(distinct) >= 12  # the last batch of a window gets what was put off


def test_the_in_batch_flag_and_few_examples(sharded: Make, caplog: pytest.LogCaptureFixture) -> None:
    labels = replace(sharded("labels", examples(50)), in_batch=False)
    assert not BatchSchedule([labels], 8, seed=0, hard_negatives=1).batch(0).in_batch
    with pytest.raises(ValueError, match=r"no source of examples can fill a batch of 64 \(labels has 50\)"):
        BatchSchedule([labels], 64, seed=0, hard_negatives=1)
    with pytest.raises(ValueError, match="no source"):
        BatchSchedule([labels], 8, seed=0)
    assert "in-batch negatives are not allowed here" in caplog.text


def test_a_run_that_stops_in_the_middle_of_a_stream_goes_on_exactly(
    make_training: Callable[..., Training],
    made_up_source: Callable[..., ExampleSource],
    sharded: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5 + 5 steps are 10 steps, in weights and records, and what was read before is not read again."""
    sources = [
        sharded("a", made_up_source("a", 800, 1).examples),
        sharded("b", made_up_source("b", 200, 1).examples),
    ]
    settings: dict[str, Any] = {"batch_size": 8, "max_length": 32, "hard_negatives": 1, "relation_heads": 4}
    config = DistillConfig(steps=10, save_every=5, precision="float32", out="whole", **settings)
    whole = make_training(config, sources=sources)
    expected = list(whole.records())

    broken = replace(config, out="broken")
    early = list(islice(make_training(broken, sources=sources).records(), 7))[:5]
    counts = reads(monkeypatch)
    resumed = make_training(broken, sources=sources)
    late = list(resumed.records())
    assert sum(counts.values()) <= 4 * 6  # two windows of each source
    for straight, found in zip(expected, early + late, strict=True):
        assert all(found[name] == straight[name] for name in ("step", "source", "loss", "grad_norm"))
    for name, parameter in trained_parameters(whole.student.model).items():
        assert torch.equal(parameter, resumed.student.model.get_parameter(name)), name
