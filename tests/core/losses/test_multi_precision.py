import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from bitembed_core import StorageFormat
from bitembed_core.losses import EmbeddingBatch, InfoNCE, MultiPrecisionLoss, SimilarityDistillation


def random_batch(b, k, d, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, requires_grad=True)

    return EmbeddingBatch(draw(b, d), draw(b, d), draw(b, k, d) if k else None)


def rounded(e, bits):
    """Eq 10 and 11, restated."""
    a = e.detach().abs().max(dim=-1, keepdim=True).values
    if bits == 16:
        return e.detach()
    if bits == 1:
        return torch.where(e.detach() < 0, -a, a)
    m = 2**bits - 1
    return (2 * torch.clip(torch.round((e.detach() / a + 1) / 2 * m), 0, m) / m - 1) * a


def test_total_is_the_average_restated_by_hand():
    student, teacher = random_batch(4, 3, 16, seed=0), random_batch(4, 3, 24, seed=1)
    terms = MultiPrecisionLoss()(student, teacher)
    expected = []
    for bits in (1, 2, 4, 8, 16):
        low = EmbeddingBatch(*(rounded(e, bits) for e in student))
        contrastive, score = InfoNCE(0.02)(*low), SimilarityDistillation(0.02)(low, teacher)
        torch.testing.assert_close(terms.contrastive[bits], contrastive)
        torch.testing.assert_close(terms.distillation[bits], score)
        expected.append(contrastive + 0.2 * score)
    torch.testing.assert_close(terms.total, sum(expected) / 5)


def test_without_teacher_equals_sentence_transformers_averaged_over_precisions():
    student = random_batch(5, 2, 16, seed=0)
    mnrl = MultipleNegativesRankingLoss(None, scale=50.0)
    theirs = []
    for bits in (1, 4, 16):
        low = [rounded(e, bits) for e in student]
        theirs.append(mnrl.compute_loss_from_embeddings([low[0], low[1], *low[2].unbind(1)], None))
    terms = MultiPrecisionLoss((1, 4, 16))(student)
    torch.testing.assert_close(terms.total, sum(theirs) / 3)
    assert terms.distillation == {}


def test_gradient_is_that_of_the_rounded_embeddings_passed_straight_through():
    student = random_batch(4, 0, 16, seed=0)
    total = MultiPrecisionLoss((2,))(student).total
    low = [rounded(e, 2).requires_grad_() for e in student[:2]]
    expected = torch.autograd.grad(InfoNCE()(*low), low)
    for a, b in zip(torch.autograd.grad(total, student[:2]), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_sixteen_bits_alone_is_the_plain_objective():
    student, teacher = random_batch(4, 2, 16, seed=0), random_batch(4, 2, 16, seed=1)
    contrastive, score = InfoNCE(0.05, 0.1), SimilarityDistillation(0.1)
    terms = MultiPrecisionLoss((16,), contrastive, score, distillation_weight=3.0)(
        student, teacher, in_batch=False
    )
    expected = contrastive(*student, in_batch=False) + 3.0 * score(student, teacher, in_batch=False)
    torch.testing.assert_close(terms.total, expected)


def test_two_processes_with_gathered_candidates_equal_one():
    student, teacher = random_batch(6, 2, 16, seed=0), random_batch(6, 2, 12, seed=1)
    loss = MultiPrecisionLoss((1, 4, 16))
    whole = loss(student, teacher).total
    parts = [
        loss(
            student._replace(queries=student.queries[o : o + 3]),
            teacher._replace(queries=teacher.queries[o : o + 3]),
            offset=o,
        ).total
        for o in (0, 3)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_bfloat16_is_rounded_and_compared_in_float32():
    student = EmbeddingBatch(*(e.detach().bfloat16() for e in random_batch(4, 2, 32, seed=0)))
    exact = MultiPrecisionLoss()(EmbeddingBatch(*(e.float() for e in student))).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(MultiPrecisionLoss()(student).total, exact)


def test_zero_and_identical_vectors_are_finite():
    same = torch.ones(2, 4, requires_grad=True)
    zero = torch.zeros(2, 1, 4)
    batch = EmbeddingBatch(same, same, zero)
    total = MultiPrecisionLoss()(batch, batch).total
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("bits", [(), (3,), (1, 1), (32,)])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        MultiPrecisionLoss(bits)


def test_queries_in_floating_point_against_rounded_candidates():
    student, teacher = random_batch(4, 2, 16, seed=0), random_batch(4, 2, 16, seed=1)
    terms = MultiPrecisionLoss((1, 4), distillation_weight=0.3, float_queries_weight=0.5)(student, teacher)
    expected = {"symmetric": [], "asymmetric": []}
    for bits in (1, 4):
        low = [rounded(e, bits) for e in student]
        for kind, queries in (("symmetric", low[0]), ("asymmetric", student.queries)):
            batch = EmbeddingBatch(queries, low[1], low[2])
            expected[kind].append(InfoNCE(0.02)(*batch) + 0.3 * SimilarityDistillation(0.02)(batch, teacher))
    total = (sum(expected["symmetric"]) + 0.5 * sum(expected["asymmetric"])) / 2
    torch.testing.assert_close(terms.total, total)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(terms.total, student))


def test_fitted_formats_are_trained_for_by_name():
    student = random_batch(4, 0, 16, seed=0)
    terms = MultiPrecisionLoss(("int2-fitted", "ternary-fitted", 16))(student)
    for name in ("int2-fitted", "ternary-fitted"):
        low = [
            torch.from_numpy(StorageFormat(name, 16).encode(e.detach().numpy()).decode()) for e in student[:2]
        ]
        torch.testing.assert_close(terms.contrastive[name], InfoNCE(0.02)(*low), rtol=1e-4, atol=1e-5)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(terms.total, student[:2]))
    with pytest.raises(ValueError, match=r"int3-fitted"):
        MultiPrecisionLoss(("int3-fitted",))
