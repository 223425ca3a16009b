"""A step of every training stage with Triton kernels gives the reference's numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitembed_core.ops import gpu, ternary_linear
from bitembed_core.ops.ternary_linear import KERNELS
from workbench.recipes import mining
from workbench.recipes.distill import DistillConfig, distill
from workbench.recipes.pretrain import PretrainConfig, pretrain
from workbench.recipes.teacher import TeacherConfig, teacher

SMALL: dict[str, Any] = {"steps": 1, "batch_size": 2, "max_length": 16, "precision": "float32"}
LOSSES = ("loss", "contrastive", "similarity", "relations", "regression", "gradient_norm")


@pytest.fixture
def examples(tmp_path: Path, monkeypatch) -> dict[str, str]:
    monkeypatch.setattr(mining, "cache_root", lambda: tmp_path / "cache")
    paths = {}
    for kind in ("pairs", "triplets"):
        paths[kind] = str(tmp_path / f"{kind}.jsonl")
        rows = [
            {"query": f"what is {word}", "positive": f"{word} is a thing", "negatives": [f"no {word}s here"]}
            for word in ("zinc", "oak", "rain", "salt", "moss", "clay")
        ]
        if kind == "pairs":
            rows = [{key: row[key] for key in ("query", "positive")} for row in rows]
        Path(paths[kind]).write_text("\n".join(map(json.dumps, rows)))
    return paths


def first_steps(kernel: str, folder: Path, stages: list[tuple[Any, Any]], monkeypatch) -> list[dict]:
    """The record of the first step of each stage; nothing is written after it, since another one was to follow."""
    # A model is read on the CPU, where there may be no Triton, before it goes to the device.
    monkeypatch.setattr(
        ternary_linear, "_best", lambda device: kernel if KERNELS[kernel].runs_on(device) else "reference"
    )
    monkeypatch.setattr(gpu, "automatic", lambda device: kernel == "triton")
    return [
        next(iter(recipe(replace(config, out=str(folder / kernel / recipe.__name__), steps=2))))
        for recipe, config in stages
    ]


def test_steps_agree(tiny_model_folder, tmp_path, examples, monkeypatch) -> None:
    backbone = str(tiny_model_folder)
    stage_0 = TeacherConfig(
        backbone=backbone, out=str(tmp_path / "teacher"), triplets=examples["triplets"], **SMALL
    )
    list(teacher(stage_0))
    stage_1 = PretrainConfig(
        backbone=backbone,
        out=str(tmp_path / "ternary"),
        pairs=examples["pairs"],
        teacher=stage_0.out,
        **SMALL,
    )
    list(pretrain(stage_1))
    stage_2 = DistillConfig(
        backbone=stage_1.out,
        triplets=examples["triplets"],
        teacher=stage_0.out,
        relation_heads=2,
        **SMALL,
    )
    stages = [(teacher, stage_0), (pretrain, stage_1), (distill, stage_2)]
    runs = [first_steps(kernel, tmp_path, stages, monkeypatch) for kernel in ("reference", "triton")]
    assert [record["stage"] for record in runs[1]] == ["teacher", "pretrain", "distill"]
    for expected, actual in zip(*runs, strict=True):
        compared = [name for name in LOSSES if name in expected]
        assert "loss" in compared
        for name in compared:
            assert actual[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), (
                expected["stage"],
                name,
            )
