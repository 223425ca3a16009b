"""Two processes under `accelerate launch` are one process with the joined batch, hard negatives included, whether each has
all weights or a shard of them."""

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
from workbench.recipes.checkpoints import load_checkpoint, trained_parameters
from workbench.recipes.optimizer import make_optimizer
from workbench.recipes.sharding import make_accelerator
from workbench.runs import Run

WORKER = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[3]
LOSSES = ("loss", "contrastive", "similarity", "relations", "regression", "spread_out", "grad_norm")
MEASURES = ("dev_ndcg", "dev_retention", "zero_share", "flip_share")
CLOCK = ("seconds", "tokens_per_second", "latent", "model")
ARCHITECTURES = ("bert", "qwen3")
# With --cpu, `accelerate launch` starts one process whatever it is told (more take MPI); --multi_gpu is its name for
# torchrun, and the recipes turn to the CPU where there is no GPU.
TWO = ["--num_processes", "2", "--main_process_port", "0"]
WAYS = {
    "one": ["--cpu"],
    "copies": ["--multi_gpu", *TWO],
    "shards": ["--use_fsdp", "--fsdp_version", "2", *TWO],
}


def launch(way: str, *arguments: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *WAYS[way], str(WORKER), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def records(folder: Path, rank: int = 0) -> list[dict[str, float]]:
    return json.loads((folder / f"records-{rank}.json").read_text())


@pytest.fixture(scope="module")
def results(
    make_embedder: Callable[[str], BitEmbedder],
    make_teacher: Callable[[str], BitEmbedder],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with what comes out in every way, for every architecture and mode."""
    folder = tmp_path_factory.mktemp("results")
    for architecture in ARCHITECTURES:
        make_embedder(architecture).save_pretrained(folder / "models" / architecture / "student")
        make_teacher(architecture).save_pretrained(folder / "models" / architecture / "teacher")
    for way in WAYS:
        launch(way, folder / "models", folder / way)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("way", ["copies", "shards"])
def test_two_processes_are_one(results: Path, architecture: str, way: str) -> None:
    one, two = results / "one" / architecture, results / way / architecture
    losses_agree(records(one / "float"), records(two / "float"), rel=1e-5)
    gradients_agree(one / "float", two / "float")
    for processes in (one, two):  # a step in chunks is a step
        losses_agree(records(one / "float"), records(processes / "chunked"), rel=1e-5)
        gradients_agree(one / "float", processes / "chunked")
    losses_agree(records(one / "muon"), records(two / "muon"), rel=1e-4)
    # Less exactly: kept vectors of a teacher are rounded.
    losses_agree(records(one / "float"), records(two / "kept"), rel=2e-3)
    # A last bit that padding changed may push an activation over a rounding step, too.
    ternary = records(one / "ternary")[0], records(two / "ternary")[0]
    losses_agree(*([record] for record in ternary), rel=2e-3)
    for name in MEASURES:
        assert ternary[1][name] == pytest.approx(ternary[0][name], rel=1e-2), name

    # Every process yields the same records, and the first one has written them.
    losses_agree(records(two / "float", 0), records(two / "float", 1), rel=0)
    lines = (two / "float/run/records.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_run_goes_on_bit_for_bit(results: Path, way: str) -> None:
    for architecture in ARCHITECTURES:
        whole, parts = (results / way / architecture / mode / "run" for mode in ("float", "resumed"))
        expected, found = (
            [{k: v for k, v in record.items() if k not in CLOCK} for record in Run(run).records()]
            for run in (whole, parts)
        )
        assert found == expected
        expected, found = (load_file(run / "latent" / "model.safetensors") for run in (whole, parts))
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shards_are_shards_and_leave_whole_files(
    results: Path, architecture: str, make_embedder: Callable[[str], BitEmbedder]
) -> None:
    one, copies, shards = (results / way / architecture / "float" for way in WAYS)
    held = {
        folder: [json.loads((folder / f"bytes-{rank}.json").read_text()) for rank in (0, 1)]
        for folder in (copies, shards)
    }
    assert held[copies][0] == held[copies][1] == json.loads((one / "bytes-0.json").read_text())
    assert sum(held[shards]) == pytest.approx(held[copies][0], rel=0.01)
    assert max(held[shards]) < 0.55 * held[copies][0]

    # Scales of Eq 1 over shards, instead of over whole tensors, would be other scales.
    losses_agree(*(records(folder.with_name("ternary"))[:1] for folder in (copies, shards)), rel=1e-5)

    checkpoints = [Run(folder / "run").checkpoints()[-1] for folder in (one, shards)]
    assert {path.suffix for path in checkpoints[1].iterdir()} == {".safetensors", ".json"}
    plain = []
    for checkpoint in checkpoints:  # each goes on in a single process
        model = make_embedder(architecture).model
        model.get_input_embeddings().requires_grad_(False)
        optimizer = make_optimizer(model, 1e-3, 0.01)
        assert load_checkpoint(checkpoint, model, optimizer) == 2
        moments = [optimizer.state[p]["exp_avg_sq"] for p in trained_parameters(model).values()]
        plain.append([*model.parameters(), *moments])
    for expected, found in zip(*plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)
    trained = BitEmbedder.from_pretrained(shards / "run" / "latent", device="cpu")
    torch.testing.assert_close(
        trained.encode(["a text", "another"]),
        BitEmbedder.from_pretrained(one / "run" / "latent", device="cpu").encode(["a text", "another"]),
        rtol=1e-3,
        atol=1e-4,
    )


def test_only_the_second_fsdp_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(ValueError, match="--fsdp_version 2"):
        make_accelerator()
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", "true")
    with pytest.raises(ValueError, match="--gradient-checkpointing"):
        make_accelerator()


def losses_agree(one: list[dict[str, float]], two: list[dict[str, float]], rel: float) -> None:
    for expected, found in zip(one, two, strict=True):
        for name in LOSSES:
            assert found[name] == pytest.approx(expected[name], rel=rel), name


def gradients_agree(one: Path, two: Path) -> None:
    expected = load_file(one / "gradients-0.safetensors")
    found = load_file(two / "gradients-0.safetensors")
    assert expected.keys() == found.keys()
    assert len(expected) > 20
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=name)
