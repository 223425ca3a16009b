"""Eq 1 and 2 restated with plain Python numbers, and the straight-through gradients."""

import pytest
import torch

from bitembed_core.quantizers import (
    EPS,
    StraightThrough,
    fake_quantize_activation,
    fake_quantize_weight,
    learned_pattern,
    quantize_activation,
    quantize_weight,
)

WEIGHTS = {
    "gauss": torch.randn(7, 13, generator=torch.Generator().manual_seed(1)),
    "zero": torch.zeros(3, 5),
    "one value": torch.tensor([[-0.3]]),
    "outlier": torch.tensor([[100.0, 0.01, -0.01, 0.02]]),
    "ties": torch.tensor([[1.0, -1.0, 0.5, -0.5, 1.5, 2.0]]),
    "tiny": torch.full((4, 4), 1e-12),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_codes_follow_equation_1(name: str) -> None:
    weight = WEIGHTS[name]
    values = weight.flatten().tolist()
    mean = torch.tensor([abs(v) for v in values]).mean().item()
    codes, scale = quantize_weight(weight)
    assert codes.dtype == torch.int8
    assert scale.item() == pytest.approx(mean, rel=1e-6, abs=1e-30)
    for code, value in zip(codes.flatten().tolist(), values, strict=True):
        ratio = torch.tensor(value) / (scale + EPS)
        assert code == max(-1, min(1, round(ratio.item())))


ACTIVATIONS = {
    "gauss": torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(2)),
    "zero token": torch.zeros(1, 4),
    "outlier": torch.tensor([[1000.0, 1.0, -3.9, 4.0]]),
    "one feature": torch.tensor([[-2.0], [0.0]]),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_codes_follow_equation_2(name: str) -> None:
    x = ACTIVATIONS[name]
    codes, scale = quantize_activation(x)
    assert codes.dtype == torch.int8
    assert scale.shape == (*x.shape[:-1], 1)
    for token, token_codes, token_scale in zip(
        x.flatten(0, -2), codes.flatten(0, -2), scale.flatten(), strict=True
    ):
        largest = max(abs(v) for v in token.tolist())
        assert token_scale.item() == pytest.approx(largest / 127)
        for value, code in zip(token, token_codes.tolist(), strict=True):
            ratio = 127 * value / (torch.tensor(largest) + EPS)
            assert code == max(-128, min(127, round(ratio.item())))


def test_values_that_are_not_numbers_are_not_hidden() -> None:
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    assert fake_quantize_activation(x)[0].isnan().all()
    assert fake_quantize_activation(x)[1].isfinite().all()
    assert fake_quantize_weight(x).isnan().any()


@pytest.mark.parametrize("fake_quantize", [fake_quantize_weight, fake_quantize_activation])
def test_gradient_passes_straight_through(fake_quantize) -> None:
    x = torch.randn(4, 6, requires_grad=True)
    upstream = torch.randn(4, 6)
    fake_quantize(x).backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_fake_quantized_values_are_exactly_code_times_scale() -> None:
    weight, x = torch.randn(5, 8), torch.randn(5, 8)
    codes, scale = quantize_weight(weight)
    assert torch.equal(fake_quantize_weight(weight), codes * scale)
    codes, scale = quantize_activation(x)
    assert torch.equal(fake_quantize_activation(x), codes * scale)


@pytest.mark.parametrize("scale", [0.2, 0.6, 1.3])
def test_a_learned_pattern_is_ternary_by_equation_1_with_the_learned_scale(scale: float) -> None:
    weight = WEIGHTS["gauss"]
    pattern = learned_pattern(weight, torch.tensor([scale]).log())
    codes, mean = quantize_weight(pattern)
    expected = [max(-1, min(1, round(w / scale))) for w in weight.flatten().tolist()]
    assert codes.flatten().tolist() == expected
    assert mean.item() == pytest.approx(scale, rel=1e-6)
    share = sum(map(abs, expected)) / len(expected)
    torch.testing.assert_close(pattern.flatten(), torch.tensor(expected) * scale / share)
    assert learned_pattern(WEIGHTS["zero"], torch.tensor([0.0])).eq(0).all()


def test_the_gradients_of_a_learned_pattern_are_lsqs() -> None:
    """`s round(W / s)` between the outer levels and `+-s` beyond them, by autograd with a straight-through rounding."""
    weight = WEIGHTS["gauss"].clone().requires_grad_()
    log_scale = torch.tensor([-0.4], requires_grad=True)
    upstream = torch.randn(7, 13)
    learned_pattern(weight, log_scale).backward(upstream)
    assert torch.equal(weight.grad, upstream)
    again = torch.tensor([-0.4], requires_grad=True)
    ratio = weight.detach() / again.exp()
    clipped = ratio.clamp(-1, 1)
    (again.exp() * (clipped + (clipped.round() - clipped).detach())).backward(upstream)
    torch.testing.assert_close(log_scale.grad, again.grad / (7 * 13) ** 0.5)


def test_straight_through_returns_the_quantized_value_itself() -> None:
    x, quantized = torch.tensor([1e8, 0.1]), torch.tensor([1.0, 0.3])
    assert torch.equal(StraightThrough.apply(x, quantized), quantized)


def test_half_precision_input_is_quantized_in_float32() -> None:
    weight = torch.randn(6, 6).bfloat16()
    codes, scale = quantize_weight(weight)
    expected, expected_scale = quantize_weight(weight.float())
    assert torch.equal(codes, expected)
    assert scale == expected_scale
    assert fake_quantize_weight(weight).dtype == torch.bfloat16
