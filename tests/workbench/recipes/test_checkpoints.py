"""Checkpoints: everything is in them, they are whole or absent, and they belong to one model."""

import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.recipes.checkpoints import load_checkpoint, save_checkpoint
from workbench.recipes.optimizer import make_optimizer


def trained(width: int = 4, steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, 1))
    model[2].bias.requires_grad_(False)
    optimizer = make_optimizer(model, 0.1, 0.01)
    for _ in range(steps):
        model(torch.randn(5, width)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_model_optimizer_and_generator_come_back(tmp_path: Path) -> None:
    model, optimizer = trained()
    save_checkpoint(tmp_path / "step-000003", model, optimizer, 3)
    drawn = torch.rand(3)
    other, other_optimizer = trained(steps=1)
    assert load_checkpoint(tmp_path / "step-000003", other, other_optimizer) == 3
    assert torch.equal(torch.rand(3), drawn)
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        states = optimizer.state[ours], other_optimizer.state[theirs]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_only_safetensors_and_json(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step", *trained(), 3)
    assert {path.suffix for path in (tmp_path / "step").iterdir()} == {".safetensors", ".json"}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step-000003", *trained(), 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (50_000, hard)
    )  # larger files cannot be written, as on a full disk
    try:
        with pytest.raises(OSError, match="step-000006 could not be written"):
            save_checkpoint(tmp_path / "step-000006", *trained(width=200), 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    load_checkpoint(tmp_path / "step-000003", *trained())


def test_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step", *trained(), 3)
    with pytest.raises(ValueError, match=r"written by another model: 0\.bias, 0\.weight"):
        load_checkpoint(tmp_path / "step", *trained(width=5))
    model, optimizer = trained()
    model[2].bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"written by another model: 2\.bias differ"):
        load_checkpoint(tmp_path / "step", model, optimizer)
