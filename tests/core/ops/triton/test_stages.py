"""A step of every training stage with Triton kernels gives the reference's numbers."""

import json
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


def stages(kernel: str, folder: Path, backbone: str, examples: dict[str, str], monkeypatch) -> list[dict]:
    monkeypatch.setattr(ternary_linear, "_best", lambda device: kernel)
    monkeypatch.setattr(gpu, "automatic", lambda device: kernel == "triton")
    first, second, third = (str(folder / kernel / str(stage)) for stage in range(3))
    second_stage = DistillConfig(
        backbone=second,
        out=third,
        triplets=examples["triplets"],
        teacher=first,
        relation_heads=2,
        **SMALL,
    )
    records = [
        *teacher(TeacherConfig(backbone=backbone, out=first, triplets=examples["triplets"], **SMALL)),
        *pretrain(
            PretrainConfig(backbone=backbone, out=second, pairs=examples["pairs"], teacher=first, **SMALL)
        ),
        next(iter(distill(second_stage))),  # what is written after the last step is not needed
    ]
    assert [record["stage"] for record in records] == ["teacher", "pretrain", "distill"]
    return records


def test_steps_agree(tiny_model_folder, tmp_path, examples, monkeypatch) -> None:
    runs = [
        stages(kernel, tmp_path, str(tiny_model_folder), examples, monkeypatch)
        for kernel in ("reference", "triton")
    ]
    for expected, actual in zip(*runs, strict=True):
        compared = [name for name in LOSSES if name in expected]
        assert "loss" in compared
        for name in compared:
            assert actual[name] == pytest.approx(expected[name], rel=2e-3, abs=1e-4), (
                expected["stage"],
                name,
            )
