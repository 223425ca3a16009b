import math

import pytest
import torch

from bitembed_core.attention import AttentionStates
from bitembed_core.losses import (
    AttentionRelationDistillation,
    matching_layer,
    relation_divergence,
    relation_layer,
)


def random_states(b, heads, kv_heads, t, head_dim, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(h):
        return torch.randn(b, h, t, head_dim, generator=generator, dtype=dtype, requires_grad=True)

    return AttentionStates(draw(heads), draw(kv_heads), draw(kv_heads))


def slow_relation_row(states_HTD, head, heads, t, real, temperature, normalize):
    """Row t of R of one relation head: over the real tokens, from plain python lists."""

    def vector(token):
        concatenated = [x for h in range(states_HTD.shape[0]) for x in states_HTD[h, token].tolist()]
        width = len(concatenated) // heads
        part = concatenated[head * width : (head + 1) * width]
        length = math.sqrt(sum(x * x for x in part)) if normalize else 1.0
        return [x / length for x in part]

    row = vector(t)
    temperature = math.sqrt(len(row)) if temperature is None else temperature
    weights = [math.exp(sum(x * y for x, y in zip(row, vector(s), strict=True)) / temperature) for s in real]
    return [w / sum(weights) for w in weights]


def slow_loss(student, teacher, mask_BT, heads, temperature, normalize):
    total = 0.0
    for phi_student, phi_teacher in zip(student, teacher, strict=True):
        rows = []
        for b, mask in enumerate(mask_BT.tolist()):
            real = [t for t, m in enumerate(mask) if m]
            for head in range(heads):
                for t in real:
                    r_s, r_t = (
                        slow_relation_row(s[b], head, heads, t, real, temperature, normalize)
                        for s in (phi_student, phi_teacher)
                    )
                    rows.append(sum(p * math.log(p / q) for p, q in zip(r_t, r_s, strict=True)))
        total += sum(rows) / len(rows) / 3
    return total


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 1]])


@pytest.mark.parametrize("temperature", [None, 1.0, 0.1])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_slow_loop(temperature, normalize):
    # Grouped KV heads on both sides; widths 16/8 and 24/12; padding on the right, on the left and inside.
    student = random_states(3, heads=4, kv_heads=2, t=5, head_dim=4, seed=0)
    teacher = random_states(3, heads=2, kv_heads=1, t=5, head_dim=12, seed=1)
    loss = AttentionRelationDistillation(4, temperature, normalize)(student, teacher, MASK)
    expected = slow_loss(student, teacher, MASK, 4, temperature, normalize)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_head_count_that_does_not_divide_becomes_the_common_divisor_for_each_of_q_k_v():
    student = random_states(3, heads=3, kv_heads=1, t=5, head_dim=4, seed=0)
    teacher = random_states(3, heads=6, kv_heads=2, t=5, head_dim=4, seed=1)
    loss = AttentionRelationDistillation(8, 1.0)
    real = MASK.bool()
    for name, expected_heads in (("queries", 4), ("keys", 4), ("values", 4)):
        s, t = getattr(student, name), getattr(teacher, name)
        only = slow_loss([s] * 3, [t] * 3, MASK, expected_heads, 1.0, True)
        assert loss.divergence(s, t, real).item() == pytest.approx(only, rel=1e-9)


def test_the_teacher_itself_has_no_loss_and_no_gradient():
    student = random_states(3, 4, 2, 5, 8, seed=0)
    teacher = AttentionStates(*(s.detach() for s in student))
    loss = AttentionRelationDistillation(8, 0.1)(student, teacher, MASK)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(loss, student))


def test_teacher_receives_no_gradient():
    student, teacher = random_states(3, 4, 2, 5, 8, seed=0), random_states(3, 4, 2, 5, 8, seed=1)
    AttentionRelationDistillation(8)(student, teacher, MASK).backward()
    assert all(s.grad is None for s in teacher)
    assert all(s.grad.abs().sum() > 0 for s in student)


def test_padding_changes_neither_value_nor_gradient_even_when_it_is_nan():
    student, teacher = random_states(2, 4, 2, 3, 8, seed=0), random_states(2, 2, 2, 3, 8, seed=1)
    loss = AttentionRelationDistillation(4, 0.5)
    plain = loss(student, teacher, torch.ones(2, 3))
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)

    def pad(states):
        return AttentionStates(
            *(torch.cat([s, torch.full_like(s[:, :, :2], float("nan"))], dim=2) for s in states)
        )

    padded = loss(pad(student), pad(teacher), mask)
    torch.testing.assert_close(padded, plain)
    for a, b in zip(torch.autograd.grad(padded, student), torch.autograd.grad(plain, student), strict=True):
        torch.testing.assert_close(a, b)


def test_a_row_of_padding_alone_and_a_single_token_are_finite():
    student, teacher = random_states(2, 2, 1, 3, 8, seed=0), random_states(2, 2, 1, 3, 8, seed=1)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    loss = AttentionRelationDistillation(4)(student, teacher, mask)
    expected = slow_loss(student, teacher, mask[:1], 4, None, True)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(s.grad).all() for s in student)
    assert AttentionRelationDistillation(4)(student, teacher, torch.zeros(2, 3)).item() == 0
    single = torch.tensor([[1, 0, 0], [1, 0, 0]])
    assert AttentionRelationDistillation(4)(student, teacher, single).item() == pytest.approx(0, abs=1e-12)


def test_zero_states_have_finite_gradients():
    zeros = AttentionStates(*(torch.zeros(1, 2, 3, 4, requires_grad=True) for _ in range(3)))
    teacher = random_states(1, 2, 2, 3, 4, seed=1, dtype=torch.float32)
    loss = AttentionRelationDistillation(2)(zeros, teacher, torch.ones(1, 3))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(z.grad).all() for z in zeros)


def test_bfloat16_under_autocast_relates_in_float32():
    student, teacher = (
        AttentionStates(*(s.bfloat16() for s in random_states(3, 4, 2, 5, 8, seed=seed))) for seed in (0, 1)
    )
    exact_pair = [AttentionStates(*(s.float() for s in states)) for states in (student, teacher)]
    exact = AttentionRelationDistillation(8)(*exact_pair, MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(AttentionRelationDistillation(8)(student, teacher, MASK), exact)


def test_states_of_another_batch_are_refused():
    states = random_states(3, 2, 1, 5, 4, seed=0)
    with pytest.raises(ValueError, match=r"\(3, 5\)"):
        AttentionRelationDistillation(2)(random_states(3, 2, 1, 4, 4, seed=0), states, MASK)
    with pytest.raises(ValueError, match=r"\(2, 2, 5, 4\)"):
        AttentionRelationDistillation(2)(states, random_states(2, 2, 1, 5, 4, seed=0), MASK)
    for settings in ({"relation_heads": 0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="must"):
            AttentionRelationDistillation(**settings)


def test_relation_layer():
    # Counted from 1, the paper distils layer 18 of 28 and 10 of 18.
    assert relation_layer(28) == 18 - 1
    assert relation_layer(18) == 10 - 1
    assert [relation_layer(n) for n in (1, 2, 6, 12, 24)] == [0, 0, 3, 6, 13]
    assert relation_layer(28, depth=1.0) == 27
    assert relation_layer(28, depth=0.01) == 0
    for arguments in ((0,), (6, 0.0), (6, 1.1)):
        with pytest.raises(ValueError, match="layer"):
            relation_layer(*arguments)


def test_matching_layer_is_at_the_same_share_of_the_depth():
    assert [matching_layer(layer, 6, 6) for layer in range(6)] == list(range(6))
    assert [matching_layer(layer, 6, 12) for layer in range(6)] == [1, 3, 5, 7, 9, 11]
    assert [matching_layer(layer, 4, 2) for layer in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize("block", [1, 1 << 30])
def test_blocked_divergence_equals_autograd_of_the_plain_one(monkeypatch, block):
    monkeypatch.setattr(relation_divergence, "BLOCK_ELEMENTS", block)
    generator = torch.Generator().manual_seed(5)
    teacher = torch.randn(3, 2, 7, 4, generator=generator, dtype=torch.float64)
    start = torch.randn(3, 2, 7, 6, generator=generator, dtype=torch.float64)
    real = torch.arange(7) < torch.tensor([[7], [1], [4]])
    results = []
    for divergence in (relation_divergence.plain, relation_divergence.blocked):
        student = start.clone().requires_grad_()
        value = divergence(student, teacher, real, (0.7, 1.3))
        (3 * value).backward()
        results.append((value.detach(), student.grad))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
