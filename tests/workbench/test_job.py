"""A training in a process of its own: started, paused, resumed, stopped, failed; and found again by another tab."""

import os
import sys
import time
from dataclasses import replace

import pytest

from workbench.job import Job, records_of
from workbench.recipes.settings import TrainingConfig
from workbench.runs import RunInUse

# What a notebook does as a script, without its heavy imports, and with 0.02 s of sleep for a training step.
NOTEBOOK = """
import json, sys, time
from dataclasses import asdict
from pathlib import Path
from filelock import FileLock
from workbench.config import entered_config
from workbench.recipes.settings import TrainingConfig

*arguments, run_now = sys.argv[1:]
assert run_now == "--run"
entries = [argument.removeprefix("--").split("=") for argument in arguments]
config = entered_config(
    TrainingConfig, {name.replace("-", "_"): value[0] if value else True for name, *value in entries}
)
print("loading", flush=True)
time.sleep(float(config.backbone))
if config.seed == 13:
    raise ValueError("no luck with\\nthis seed")
run = Path(config.out)
run.mkdir(exist_ok=True)
(run / "config.json").write_text(json.dumps({"recipe": "training", "config": asdict(config)}))
(run / "environment.json").write_text("{}")
records = run / "records.jsonl"
with FileLock(run / "lock"), records.open("a") as file:
    done = len(records.read_text().splitlines())
    for step in range(done + 1, config.steps + 1):
        time.sleep(0.02)
        print(json.dumps({"step": step}), file=file, flush=True)
        if (run / "pause").exists():
            (run / "pause").unlink()
            sys.exit()
    (run / "latent").mkdir()
"""


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """A new tab on one and the same notebook. No process outlives the test."""
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    path = tmp_path / "notebook.py"
    path.write_text(NOTEBOOK)
    jobs = []

    def make():
        jobs.append(Job(path))
        return jobs[-1]

    yield make
    for job in jobs:
        if job.process is not None:
            job.process.kill()
            job.process.wait(10)


@pytest.fixture
def config(tmp_path):
    return TrainingConfig(backbone="0", out=str(tmp_path / "run"), steps=10_000)


def wait_for(job, config, *states):
    end = time.monotonic() + 60
    while (standing := job.standing(config)).state not in states:
        assert standing.state != "failed", standing
        assert time.monotonic() < end, standing
        time.sleep(0.01)
    return standing


def test_paused_by_another_tab_and_resumed(make_job, config):
    job, other_tab = make_job(), make_job()
    assert job.standing(config).state == "new"
    job.start(config)
    wait_for(job, config, "training")
    while len(records_of(config)) < 3:
        time.sleep(0.01)
    assert other_tab.standing(config).state == "training"
    assert other_tab.process is None
    with pytest.raises(RunInUse):
        other_tab.start(replace(config, overwrite=True))
    with pytest.raises(RuntimeError, match="training already"):
        job.start(replace(config, out=config.out + "-2"))
    other_tab.pause(config)
    wait_for(job, config, "paused")
    assert job.process.wait(10) == 0  # nothing of it is left in memory
    steps = len(records_of(config))
    with pytest.raises(FileExistsError):
        job.start(config)
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        job.resume(replace(config, seed=1))

    other_tab.resume(config)
    wait_for(other_tab, config, "training")
    while len(records_of(config)) < steps + 2:
        time.sleep(0.01)
    job.pause(config)
    wait_for(other_tab, config, "paused")
    assert [record["step"] for record in records_of(config)] == list(range(1, len(records_of(config)) + 1))


def test_ctrl_c_in_the_terminal_of_the_app_does_not_reach_it(make_job, config):
    job = make_job()
    job.start(config)
    assert os.getpgid(job.process.pid) == job.process.pid != os.getpgid(0)  # a terminal signals its own group


def test_a_run_that_ends_is_finished(make_job, config):
    short = replace(config, steps=2)
    job = make_job()
    job.start(short)
    wait_for(job, short, "finished")
    assert job.process.wait(10) == 0
    assert len(records_of(short)) == 2


def test_before_the_first_step_a_pause_ends_the_process(make_job, config):
    slow = replace(config, backbone="60")
    job = make_job()
    job.start(slow)
    while job.standing(slow) != ("working", "loading"):
        time.sleep(0.01)
    job.pause(slow)
    assert wait_for(job, slow, "new").message == ""


def test_what_went_wrong_is_said(make_job, config):
    unlucky = replace(config, seed=13)
    job = make_job()
    job.start(unlucky)
    assert wait_for(job, unlucky, "failed").message == "ValueError: no luck with\nthis seed"
    assert job.standing(config).state == "failed"
    job.start(config)
    wait_for(job, config, "training")
    job.pause(config)
    job.process.wait(10)


def test_a_run_that_was_killed_can_be_resumed(make_job, config):
    job = make_job()
    job.start(config)
    wait_for(job, config, "training")
    job.process.kill()
    job.process.wait(10)
    assert wait_for(job, config, "paused", "failed").state == "paused"
