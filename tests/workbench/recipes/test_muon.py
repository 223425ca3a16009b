"""Muon against its equations, against torch's own, and together with AdamW."""

import pytest
import torch
from torch import nn

from workbench.recipes.muon import Muon, orthogonal
from workbench.recipes.optimizer import make_optimizer

SHAPES = [(8, 8), (3, 40), (40, 3), (1, 7), (7, 1), (1, 1), (65, 64)]


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_stay_and_singular_values_follow_the_polynomial(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    s = s / x.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = u @ torch.diag(s) @ vt
    torch.testing.assert_close(orthogonal(x, torch.float64), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(orthogonal(x, torch.float32).double(), expected, rtol=1e-3, atol=1e-3)


def test_large_and_small_directions_come_out_alike() -> None:
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(32, 32))[0] for _ in range(2))
    x = u @ torch.diag(torch.logspace(0, -1.5, 32)) @ v.T  # the largest is 30 times the smallest
    for scale in (1e-5, 1.0, 1e5):
        values = torch.linalg.svdvals(orthogonal(x * scale, torch.float32))
        assert values.min() > 0.6
        assert values.max() < 1.25


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(4, 6), torch.bfloat16).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    optimizers = (
        Muon(
            [{"params": [ours], "weight_decay": 0.1}], 0.01, torch.bfloat16
        ),  # torch computes in nothing else
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_two_steps_written_out() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 10, dtype=torch.float64))
    expected, momentum = weight.detach().clone(), torch.zeros(6, 10, dtype=torch.float64)
    optimizer = Muon([{"params": [weight], "weight_decay": 0.1}], 0.02, torch.float64)
    for _ in range(2):
        gradient = torch.randn(6, 10, dtype=torch.float64)
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = orthogonal(0.05 * gradient + 0.95 * momentum, torch.float64)
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 10**0.5 * direction
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matrices, not parameters of shape \(4,\)"):
        Muon([{"params": [nn.Parameter(torch.zeros(4))]}], lr=0.1)


def test_matrices_by_muon_and_the_rest_by_adamw() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3)) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    both, adamw = (make_optimizer(nets[k], 0.01, 0.1, kind) for k, kind in enumerate(("muon", "adamw")))
    alone = Muon([{"params": [nets[2][1].weight], "weight_decay": 0.1}], 0.01)
    for _ in range(3):
        for group in both.param_groups:
            group["lr"] = 0.02  # set from outside, as the schedule of the training does
        for optimizer in (adamw, alone):
            optimizer.param_groups[-1]["lr"] = optimizer.param_groups[0]["lr"] = 0.02
        ids = torch.randint(0, 5, (6,))
        gradients = torch.autograd.grad(nets[0](ids).pow(3).sum(), list(nets[0].parameters()))
        for net in nets:
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
        for optimizer in (both, adamw, alone):
            optimizer.step()
    expected = dict(nets[1].named_parameters()) | {"1.weight": nets[2][1].weight}
    for name, parameter in nets[0].named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert set(both.state) == set(nets[0].parameters())
