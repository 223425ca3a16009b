"""Not a test: what `test_kills.py` starts.

    killed_training.py FOLDER KILLS

Trains the model in FOLDER/model on FOLDER/pairs.jsonl in child processes, kills them at random moments (SIGKILL), each time
looks at what is left and lets another one go on, until all kills are used up and the last run is at its end. Then that run
must be the one that nobody killed, to the last bit.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from workbench.recipes.pretrain import PretrainConfig, pretrain
from workbench.runs import Run

FILES = {"model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}
CLOCK = ("seconds", "tokens_per_second", "latent", "model")


def started(config: PretrainConfig) -> int:
    """The process id of a child that trains, from where the run in `config.out` is."""
    child = os.fork()
    if child:
        return child
    try:
        list(pretrain(replace(config, resume=Run(Path(config.out)).exists)))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finished(child: int, kill_after: float | None) -> bool:
    """Wait for the child; whether it came to its end before it was killed."""
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert kill_after is not None or status == 0, "the run could not go on"
    assert status in (0, signal.SIGKILL), "the run failed by itself"
    return status == 0


def look_at(run: Run, save_every: int) -> None:
    """What a kill has left: whole checkpoints, and no more steps lost than since the last one was due."""
    if not run.exists:
        assert not run.path.exists()
        return
    steps = [record["step"] for record in run.records()]
    assert steps == list(range(1, len(steps) + 1))
    checkpoints = run.checkpoints()
    newest = int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0
    assert len(steps) - newest <= save_every, (len(steps), newest)
    for folder in checkpoints[-1:]:
        assert {path.name for path in folder.iterdir()} == FILES
        for file in folder.glob("*.safetensors"):
            load_file(file)


def compare(one: Run, other: Run) -> None:
    records = [
        [{name: value for name, value in record.items() if name not in CLOCK} for record in run.records()]
        for run in (one, other)
    ]
    assert records[0] == records[1]
    files = [path.relative_to(one.path) for path in one.path.rglob("*.safetensors")]
    assert files
    for file in files:  # of the exported models and of the checkpoints
        expected, found = load_file(one.path / file), load_file(other.path / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(weight, found[name]) for name, weight in expected.items()), file
    half_written = [path for path in other.path.rglob(".*") if path.is_dir()]
    assert not half_written, half_written
    assert {path.name for path in one.path.iterdir()} == {path.name for path in other.path.iterdir()}


def main(folder: Path, kills: int) -> None:
    config = PretrainConfig(
        backbone=str(folder / "model"),
        pairs=str(folder / "pairs.jsonl"),
        out=str(folder / "whole"),
        steps=20,
        batch_size=4,
        max_length=32,
        precision="float32",
        save_every=3,
        dev_every=5,
        watch_every=5,
    )
    began = time.monotonic()
    assert finished(started(config), None)
    duration = time.monotonic() - began
    whole = Run(Path(config.out))
    generator = random.Random(kills)
    runs = killed = 0
    while killed < kills:
        runs += 1
        config = replace(config, out=str(folder / f"killed-{runs}"))
        run = Run(Path(config.out))
        done = False
        while not done and killed < kills:
            done = finished(started(config), generator.uniform(0, duration))
            killed += not done
            look_at(run, config.save_every)
        if not done:
            finished(started(config), None)
        compare(whole, run)
    print(json.dumps({"kills": killed, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
