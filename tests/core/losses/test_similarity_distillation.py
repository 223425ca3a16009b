import math

import pytest
import torch

from bitembed_core.losses import EmbeddingBatch, SimilarityDistillation


def random_batch(b, p, k, d, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)

    return EmbeddingBatch(draw(b, d), draw(p, d), draw(p, k, d) if k else None)


def slow_distribution(batch, i, own, tau, in_batch):
    def cosine(a, b):
        return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    batch = EmbeddingBatch(*(None if e is None else e.detach() for e in batch))
    query = batch.queries[i]
    weights = []
    for p in range(len(batch.positives)):
        if in_batch or p == own:
            weights.append(math.exp(cosine(query, batch.positives[p]) / tau))
            if batch.negatives is not None:
                weights += [math.exp(cosine(query, negative) / tau) for negative in batch.negatives[p]]
    return [w / sum(weights) for w in weights]


@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("in_batch", [True, False])
def test_equals_slow_loop_with_different_dimensions(k, in_batch):
    student, teacher = random_batch(3, 5, k, 6, seed=0), random_batch(3, 5, k, 10, seed=1)
    expected = 0.0
    for i in range(3):
        p_teacher = slow_distribution(teacher, i, i + 1, 0.1, in_batch)
        p_student = slow_distribution(student, i, i + 1, 0.1, in_batch)
        expected += sum(t * math.log(t / s) for t, s in zip(p_teacher, p_student, strict=True)) / 3
    loss = SimilarityDistillation(0.1)(student, teacher, offset=1, in_batch=in_batch)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_the_teacher_itself_has_no_loss_and_no_gradient():
    student = random_batch(4, 4, 2, 6, seed=0)
    teacher = EmbeddingBatch(*(3 * e.detach() for e in student))
    loss = SimilarityDistillation()(student, teacher)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, student):
        assert gradient.abs().max() < 1e-12


def test_teacher_receives_no_gradient():
    student, teacher = random_batch(4, 4, 2, 6, seed=0), random_batch(4, 4, 2, 6, seed=1)
    SimilarityDistillation()(student, teacher).backward()
    assert all(e.grad is None for e in teacher)
    assert all(e.grad.abs().sum() > 0 for e in student)


def test_two_processes_with_gathered_candidates_equal_one():
    student, teacher = random_batch(6, 6, 2, 6, seed=0), random_batch(6, 6, 2, 9, seed=1)
    loss = SimilarityDistillation(0.05)
    whole = loss(student, teacher)
    parts = [
        loss(
            student._replace(queries=student.queries[r]),
            teacher._replace(queries=teacher.queries[r]),
            offset=o,
        )
        for r, o in ((slice(0, 3), 0), (slice(3, 6), 3))
    ]
    split = torch.stack(parts).mean()
    torch.testing.assert_close(split, whole)
    for a, b in zip(torch.autograd.grad(split, student), torch.autograd.grad(whole, student), strict=True):
        torch.testing.assert_close(a, b)


def test_extreme_and_single_candidates_are_finite():
    axis = torch.eye(4, requires_grad=True)
    opposite = EmbeddingBatch(axis, -axis.detach())
    loss = SimilarityDistillation()(EmbeddingBatch(axis, axis.detach()), opposite)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(axis.grad).all()
    one = EmbeddingBatch(torch.ones(1, 4), torch.ones(1, 4))
    assert SimilarityDistillation()(one, one, in_batch=False).item() == 0


def test_bfloat16_under_autocast_compares_in_float32():
    student = EmbeddingBatch(*(e.bfloat16() for e in random_batch(8, 8, 2, 64, seed=0)))
    teacher = EmbeddingBatch(*(e.bfloat16() for e in random_batch(8, 8, 2, 32, seed=1)))
    exact = SimilarityDistillation()(
        EmbeddingBatch(*(e.float() for e in student)), EmbeddingBatch(*(e.float() for e in teacher))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SimilarityDistillation()(student, teacher), exact)


def test_batches_of_different_texts_are_refused():
    # 3 positives with one negative each and 6 positives are both 6 candidates, but not the same ones.
    with pytest.raises(ValueError, match="same queries, positives and negatives"):
        SimilarityDistillation()(random_batch(3, 3, 1, 4, seed=0), random_batch(3, 6, 0, 4, seed=1))
    with pytest.raises(ValueError, match="temperature"):
        SimilarityDistillation(0)
