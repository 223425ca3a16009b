"""Two processes under `accelerate launch` are one process with the joined batch, hard negatives included."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitembed_core import BitEmbedder

WORKER = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[3]
LOSSES = ("loss", "contrastive", "similarity", "relations", "regression", "spread_out", "grad_norm")


def launch(processes: int, *arguments: Path) -> None:
    # With --cpu, `accelerate launch` starts one process whatever it is told (more take MPI); --multi_gpu is
    # its name for torchrun, and the recipes turn to the CPU where there is no GPU.
    how = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"] if processes == 2 else ["--cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *how, str(WORKER), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def records(folder: Path, rank: int = 0) -> list[dict[str, float]]:
    return json.loads((folder / f"records-{rank}.json").read_text())


def test_two_processes_are_one(
    make_embedder: Callable[[str], BitEmbedder], make_teacher: Callable[[], BitEmbedder], tmp_path: Path
) -> None:
    make_embedder("bert").save_pretrained(tmp_path / "student")
    make_teacher().save_pretrained(tmp_path / "teacher")
    for processes in (1, 2):
        launch(processes, tmp_path / "student", tmp_path / "teacher", tmp_path / str(processes))
    one, two = tmp_path / "1", tmp_path / "2"

    losses_agree(records(one / "float"), records(two / "float"), rel=1e-5)
    gradients_agree(one / "float", two / "float")
    for processes in (one, two):  # a step in chunks is a step
        losses_agree(records(one / "float"), records(processes / "chunked"), rel=1e-5)
        gradients_agree(one / "float", processes / "chunked")
    # Less exactly: a last bit that padding changed may push an activation over a rounding step.
    losses_agree(records(one / "ternary")[:1], records(two / "ternary")[:1], rel=2e-3)

    # Every process yields the same records, and the first one has written them.
    losses_agree(records(two / "float", 0), records(two / "float", 1), rel=0)
    lines = (two / "float/run/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def losses_agree(one: list[dict[str, float]], two: list[dict[str, float]], rel: float) -> None:
    for expected, found in zip(one, two, strict=True):
        for name in LOSSES:
            assert found[name] == pytest.approx(expected[name], rel=rel), name


def gradients_agree(one: Path, two: Path) -> None:
    expected = load_file(one / "gradients-0.safetensors")
    found = load_file(two / "gradients-0.safetensors")
    assert expected.keys() == found.keys()
    assert len(expected) > 30
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=name)
