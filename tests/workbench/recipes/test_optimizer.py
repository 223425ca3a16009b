"""Which parameters decay and when, and the shapes of learning rate and quantization pressure."""

import math

import pytest
import torch
from torch import nn

from workbench.recipes.optimizer import (
    learning_rate_factor,
    make_optimizer,
    parameter_groups,
    quantization_pressure,
    weight_decay_at,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_only_matrices_outside_tables_decay() -> None:
    net = Net()
    decayed, others = parameter_groups(net, 0.1)
    assert [id(p) for p in decayed["params"]] == [id(net.linear.weight)]
    assert {id(p) for p in others["params"]} == {
        id(p) for p in (net.table.weight, net.linear.bias, net.norm.weight, net.norm.bias)
    }
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_one_step_is_adamw_written_out() -> None:
    torch.manual_seed(0)
    net = Net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = make_optimizer(net, learning_rate=0.01, weight_decay=0.1)
    loss = net.norm(net.linear(net.table(torch.tensor([0, 3])))).square().sum()
    loss.backward()
    optimizer.step()
    for name, p in net.named_parameters():
        if name.startswith("frozen"):
            assert torch.equal(p, before[name])
            continue
        decay = 0.1 if name == "linear.weight" else 0.0
        # In the first step the corrected moments are g and g^2, so Adam moves by lr * sign(g).
        update = p.grad / (p.grad.abs() + 1e-8)
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * update
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-7)


def test_warm_up_is_linear_and_never_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1, "cosine") for step in range(10)]
    assert factors == pytest.approx([0.1 * (k + 1) for k in range(10)])


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("cosine", lambda done: 0.5 + 0.5 * math.cos(math.pi * done)),
        ("linear", lambda done: 1 - done),
        ("constant", lambda done: 1.0),
    ],
)
def test_decay_after_the_warm_up(decay: str, expected) -> None:
    for step in range(10, 100):
        assert learning_rate_factor(step, 100, 0.1, decay) == pytest.approx(expected((step - 10) / 90))
    assert learning_rate_factor(99, 100, 0.1, decay) > 0


def test_without_warm_up_and_with_nothing_else() -> None:
    assert learning_rate_factor(0, 10, 0.0, "linear") == 1.0
    assert [learning_rate_factor(step, 4, 1.0, "cosine") for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_weight_decay_has_two_phases() -> None:
    assert [weight_decay_at(step, 10, 0.1, 0.5) for step in range(10)] == 5 * [0.1] + 5 * [0.0]
    assert {weight_decay_at(step, 10, 0.1, 1.0) for step in range(10)} == {0.1}
    assert {weight_decay_at(step, 10, 0.1, 0.0) for step in range(10)} == {0.0}


def test_pressure_rises_from_nothing_to_all() -> None:
    pressures = [quantization_pressure(step, 20, 0.2) for step in range(20)]
    assert pressures == [0.0, 0.25, 0.5, 0.75] + 16 * [1.0]
    assert {quantization_pressure(step, 20, 0.0) for step in range(20)} == {1.0}
    assert quantization_pressure(19, 20, 1.0) < 1.0
