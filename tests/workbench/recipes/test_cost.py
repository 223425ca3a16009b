"""The arithmetic of costs, against what PyTorch counts while it computes and against what lies in memory and on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bitembed_core import BitEmbedder
from workbench.cost import CostConfig, filled
from workbench.recipes.cost import (
    Shape,
    checkpoint_bytes,
    forward_flops,
    state_bytes,
    step_flops,
    step_lengths,
)
from workbench.recipes.distill import DistillConfig
from workbench.recipes.engine import Training

LENGTHS = [8, 16, 40]  # no padding: multiples of 8, each alone


def counted(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gemma3"])
def test_forward_and_backward_are_what_torch_counts(
    make_embedder: Callable[[str], BitEmbedder], architecture: str
) -> None:
    embedder = make_embedder(architecture)
    batches = [
        {"input_ids": torch.full((1, n), 5), "attention_mask": torch.ones(1, n, dtype=torch.long)}
        for n in LENGTHS
    ]
    shape = Shape.of(embedder.model)
    with torch.no_grad():
        forward = counted(lambda: [embedder.embed(batch) for batch in batches])
    assert forward_flops(shape, LENGTHS) == forward
    both = counted(lambda: [embedder.embed(batch).sum().backward() for batch in batches])
    assert step_flops(DistillConfig(), shape, None, LENGTHS) == both == 3 * forward


def test_a_step_counts_every_pass(
    make_training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward passes of student and teacher, counted as they happen."""
    config = DistillConfig(
        steps=1, batch_size=4, max_length=24, precision="float32", relation_heads=4, relation_weight=1.0
    )
    for change in ({}, {"chunk_tokens": 50}, {"gradient_checkpointing": True}):
        training = make_training(replace(config, **change), ternary=False)
        monkeypatch.setattr(training.student, "tokenize", whole_texts(training.student))
        texts = training.schedule.batch(0)
        lengths = [16] * sum(len(x) for x in (texts.queries, texts.positives, *texts.negatives))
        shape = Shape.of(training.student.model)
        flops = counted(lambda training=training, texts=texts: training.backward(texts))
        expected = step_flops(training.config, shape, Shape.of(training.teacher.model), lengths)
        losses = flops / expected - 1  # of embeddings and relations, not in the formula
        assert 0 <= losses < 0.25, (change, losses)


def whole_texts(embedder: BitEmbedder) -> Callable[..., dict[str, torch.Tensor]]:
    """A tokenizer that makes 16 tokens of any text."""
    plain = embedder.tokenize

    def tokenize(texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
        return plain([(text + "x" * 16)[:14] for text in texts])

    return tokenize


def test_lengths_of_a_step() -> None:
    config = DistillConfig(batch_size=2, hard_negatives=3, max_length=20)
    assert sorted(step_lengths(config, 5, 99)) == [5, 5] + 8 * [20]


@pytest.mark.parametrize("frozen", [True, False])
def test_bytes_are_those_of_the_tensors(
    make_training: Callable[..., Training], tmp_path: Path, frozen: bool
) -> None:
    config = DistillConfig(
        steps=1, batch_size=8, precision="float32", relation_weight=0, freeze_token_embeddings=frozen
    )
    training = make_training(config)
    shape = Shape.of(training.student.model)
    next(training.records())
    parameters = list(training.student.model.parameters())
    moments = [m for state in training.optimizer.state.values() for m in state.values() if m.dim()]
    gradients = [parameter for parameter in parameters if parameter.requires_grad]
    held = sum(tensor.nbytes for tensor in (*parameters, *gradients, *moments))
    assert state_bytes(shape, frozen, processes=1, sharded=False) == held
    files = training.run.checkpoints()[-1].glob("*.safetensors")
    written = sum(file.stat().st_size for file in files)
    assert checkpoint_bytes(shape, frozen) == pytest.approx(written, rel=0.25)  # with headers


def test_shards_hold_their_part_and_a_layer(tiny_embedder: BitEmbedder) -> None:
    shape = Shape.of(tiny_embedder.model)
    whole = state_bytes(shape, True, processes=1, sharded=False)
    layer = 4 * shape.block_weights // 2
    rest = 4 * (shape.table_weights + shape.other_weights)
    assert state_bytes(shape, True, processes=8, sharded=True) == whole // 8 + rest + 2 * layer
    trained = shape.block_weights + shape.other_weights
    assert state_bytes(shape, True, processes=8, sharded=False) == whole + 4 * trained


def test_the_plan_has_the_numbers_of_today() -> None:
    """After a change of the recipes or of the arithmetic: python -m workbench.cost --document docs/training-at-scale.md."""
    plan = (Path(__file__).parents[3] / "docs" / "training-at-scale.md").read_text(encoding="utf-8")
    assert filled(plan, CostConfig()) == plan
    with pytest.raises(ValueError, match="no place for the table 'shapes'"):
        filled("# Plan", CostConfig())
