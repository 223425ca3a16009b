"""Layers that run again in the backward pass give the same gradients and hold less meanwhile."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.recipes.distill import DistillConfig
from workbench.recipes.engine import Training

CONFIG = DistillConfig(
    steps=1,
    batch_size=8,
    learning_rate=1e-3,
    max_length=40,
    precision="float32",
    hard_negatives=2,
    relation_weight=10.0,
    relation_heads=4,
    regression_weight=0.5,
)


def gradients(training: Training) -> dict[str, Tensor]:
    training.backward(training.schedule.batch(0))
    named = training.student.model.named_parameters()
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gemma3"])
@pytest.mark.parametrize(("precision", "chunk"), [("float32", None), ("float32", 150), ("bfloat16", None)])
def test_gradients_are_the_same_to_the_last_bit(
    make_training: Callable[..., Training], architecture: str, precision: Any, chunk: int | None
) -> None:
    """With attention states captured on the way; in bfloat16 attention takes another path forward."""
    config = replace(CONFIG, precision=precision, chunk_tokens=chunk)
    kept = gradients(make_training(config, architecture=architecture))
    again = gradients(make_training(replace(config, gradient_checkpointing=True), architecture=architecture))
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert torch.equal(again[name], gradient), name


def test_only_the_inputs_of_layers_are_kept(make_training: Callable[..., Training]) -> None:
    """The layers of a forward pass hold nothing but one state a token; all else is theirs to compute again."""
    held = {}
    for checkpointing in (False, True):
        training = make_training(replace(CONFIG, gradient_checkpointing=checkpointing))
        tokens = training.student.tokenize(["a text of some length"] * 64)
        parameters = {p.data_ptr() for p in training.student.model.parameters()}
        tensors: dict[int, Tensor] = {}

        def keep(tensor: Tensor, tensors: dict[int, Tensor] = tensors) -> Tensor:
            tensors[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            embeddings = training.student.embed(tokens)
        sizes = [t.nbytes for address, t in tensors.items() if address not in parameters]
        held[checkpointing] = sum(sizes)
        embeddings.sum().backward()
    assert held[True] < 0.25 * held[False]


def test_layers_stay_without_dropout(make_training: Callable[..., Training]) -> None:
    training = make_training(replace(CONFIG, gradient_checkpointing=True))
    model = training.student.model
    assert model.config.hidden_dropout_prob > 0
    assert {type(m).__name__ for m in model.modules() if m.training} == {"BertLayer"}
    tokens = training.student.tokenize(["a text"])
    assert torch.equal(training.student.embed(tokens), training.student.embed(tokens))
