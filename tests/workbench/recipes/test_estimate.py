"""The estimate before a run: tokens against a count by hand, bytes against the files of the run, and nothing altered."""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from workbench.estimate import estimate_elsewhere, main
from workbench.recipes import estimate as module
from workbench.recipes.estimate import Estimate, estimate
from workbench.recipes.pretrain import PretrainConfig, pretrain, pretrain_stage
from workbench.recipes.stage import prepare
from workbench.runs import Run


@pytest.fixture
def config(tiny_model_folder: Path, tmp_path: Path, made_up_source: Callable[..., Any]) -> PretrainConfig:
    rows = [{"query": e.query, "positive": e.positive} for e in made_up_source("a", 60).examples]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PretrainConfig(
        backbone=str(tiny_model_folder),
        pairs=str(pairs),
        out=str(tmp_path / "run"),
        steps=5,
        batch_size=4,
        max_length=32,
        precision="float32",
        calibration_texts=8,
        dev_every=2,
        dev_examples=6,
        keep_checkpoints=1,
    )


def test_tokens_are_those_of_the_batches_of_the_run(config: PretrainConfig) -> None:
    found = estimate(prepare(pretrain_stage(config)))
    schedule = prepare(pretrain_stage(config)).schedule
    by_hand = [
        sum(
            min(len(text) + 2, 32) for text in (*batch.queries, *batch.positives)
        )  # a byte each, <cls>, <sep>
        for batch in (schedule.batch(step) for step in range(5))
    ]
    assert found.tokens_per_step == pytest.approx(sum(by_hand) / 5)
    assert found.tokens == pytest.approx(sum(by_hand))
    assert (found.counted_batches, found.tried_examples, found.measurements) == (5, 4, 3)
    records = list(pretrain(config))
    seen = [float(r["tokens_per_second"]) * float(r["seconds"]) for r in records]
    assert seen == pytest.approx(by_hand)


def test_bytes_are_those_of_the_files(config: PretrainConfig) -> None:
    found = estimate(prepare(pretrain_stage(config)))
    list(pretrain(config))
    run = Run.open(config.out)
    (checkpoint,) = run.checkpoints()
    size = sum((checkpoint / f"{part}.safetensors").stat().st_size for part in ("model", "optimizer"))
    assert found.checkpoint_bytes == pytest.approx(size, rel=0.1)  # names and shapes come on top
    assert found.checkpoint_bytes < size
    assert found.model_bytes == pytest.approx(
        sum(f.stat().st_size for f in run.latent.rglob("*.safetensors")), rel=0.1
    )
    assert found.disk_bytes == 2 * found.checkpoint_bytes + found.model_bytes


def test_an_estimate_does_not_alter_the_run(config: PretrainConfig, tmp_path: Path) -> None:
    estimate(prepare(pretrain_stage(config)))
    assert not Path(config.out).exists()
    after = list(pretrain(config))
    alone = list(pretrain(replace(config, out=str(tmp_path / "alone"))))
    losses = [[record["loss"] for record in records] for records in (after, alone)]
    assert losses[0] == losses[1]


def test_a_batch_that_takes_long_is_tried_in_part(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "TRIAL", 2)
    training = prepare(pretrain_stage(config))
    monkeypatch.setattr(training, "step", lambda _: pytest.fail("the whole batch was tried"))
    assert estimate(training).tried_examples == 2


def test_time_is_steps_and_measurements() -> None:
    one = Estimate("a", 100, 8, 50.0, 2.0, 4, 4, 3.0, 10, 0, 0, 0, 0)
    assert one.seconds == 100 * 2 + 10 * 3
    assert one.tokens == 5000


def test_seconds_follow_the_middle_of_the_trial_steps(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = prepare(pretrain_stage(config))
    rates = {1: 10.0, 2: 500.0, 3: 400.0}
    monkeypatch.setattr(training, "step", lambda step: {"tokens_per_second": rates[step]})
    found = estimate(training)
    assert found.seconds_per_step == pytest.approx(found.tokens_per_step / statistics.median(rates.values()))


def test_in_a_process_of_its_own_and_as_a_command(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    (found,) = estimate_elsewhere("pretrain", config)
    assert found.tokens_per_step == estimate(prepare(pretrain_stage(config))).tokens_per_step
    assert set(asdict(found)) == set(Estimate.__dataclass_fields__)
    with pytest.raises(RuntimeError, match="no source of examples can fill a batch of 400"):
        estimate_elsewhere("pretrain", replace(config, batch_size=400))
    assert main(["nonsense"]) == 2
    assert "usage:" in capsys.readouterr().err
