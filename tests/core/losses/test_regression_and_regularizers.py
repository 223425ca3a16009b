import math

import pytest
import torch

from bitembed_core.losses import EmbeddingRegression, SpreadOut


def test_regression_equals_one_minus_cosine():
    student = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[5.0, 0.0], [0.0, -2.0], [1.0, 0.0]], requires_grad=True)
    loss = EmbeddingRegression()(student, teacher)
    assert loss.item() == pytest.approx((0 + 2 + (1 - math.sqrt(0.5))) / 3, rel=1e-6)
    loss.backward()
    assert teacher.grad is None
    # Only the third row can turn: the first is there, and the second stands on the opposite pole.
    assert torch.allclose(student.grad[:2], torch.zeros(2, 2), atol=1e-7)
    assert student.grad[2, 0] < 0 < student.grad[2, 1]


def test_regression_is_exact_in_bfloat16_and_finite_at_zero():
    student, teacher = torch.randn(4, 8).bfloat16(), torch.randn(4, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = EmbeddingRegression()(student, teacher)
    assert torch.equal(loss, EmbeddingRegression()(student.float(), teacher.float()))
    assert EmbeddingRegression()(torch.zeros(1, 3), torch.ones(1, 3)).item() == 1


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((0, 3),) * 2]
)
def test_regression_names_shapes_that_do_not_fit(student, teacher):
    with pytest.raises(ValueError, match="same dimension"):
        EmbeddingRegression()(torch.ones(student), torch.ones(teacher))


def test_spread_out_equals_slow_loop():
    e = torch.randn(5, 7, dtype=torch.float64)
    unit = [row / row.norm() for row in e]
    pairs = [float(unit[i] @ unit[j]) ** 2 for i in range(5) for j in range(5) if i != j]
    assert SpreadOut()(e).item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)


def test_spread_out_limits():
    assert SpreadOut()(torch.eye(4)).item() == 0
    assert SpreadOut()(torch.ones(4, 3)).item() == pytest.approx(1, rel=1e-6)
    one = torch.ones(1, 3, requires_grad=True)
    loss = SpreadOut()(one)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(one.grad, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="N, d"):
        SpreadOut()(torch.ones(3))
