"""A step of both ternary stages with Triton kernels gives the reference's numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitembed_core.ops import gpu, ternary_linear
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


def first_steps(
    kernel: str, pretraining: PretrainConfig, distillation: DistillConfig, monkeypatch
) -> list[dict]:
    """The record of the first step of each; nothing is written after it, since another one was to follow."""
    monkeypatch.setattr(ternary_linear, "_best", lambda device: kernel)
    monkeypatch.setattr(gpu, "automatic", lambda device: kernel == "triton")
    return [next(iter(pretrain(pretraining))), next(iter(distill(distillation)))]


def test_steps_agree(tiny_model_folder, tmp_path, examples, monkeypatch) -> None:
    its_teacher, ternary = str(tmp_path / "teacher"), str(tmp_path / "ternary")
    backbone = str(tiny_model_folder)
    list(teacher(TeacherConfig(backbone=backbone, out=its_teacher, triplets=examples["triplets"], **SMALL)))
    pretraining = PretrainConfig(
        backbone=backbone, out=ternary, pairs=examples["pairs"], teacher=its_teacher, **SMALL
    )
    list(pretrain(pretraining))
    distillation = DistillConfig(
        backbone=ternary,
        triplets=examples["triplets"],
        teacher=its_teacher,
        relation_heads=2,
        **SMALL,
    )
    runs = [
        first_steps(
            kernel,
            replace(pretraining, out=str(tmp_path / kernel / "pretrain"), steps=2),
            replace(distillation, out=str(tmp_path / kernel / "distill"), steps=2),
            monkeypatch,
        )
        for kernel in ("reference", "triton")
    ]
    assert [record["stage"] for record in runs[1]] == ["pretrain", "distill"]
    for expected, actual in zip(*runs, strict=True):
        compared = [name for name in LOSSES if name in expected]
        assert "loss" in compared
        for name in compared:
            assert actual[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), (
                expected["stage"],
                name,
            )
