"""Losses by Triton kernels against plain torch: values, and gradients against autograd."""

import math

import pytest
import torch
from torch.nn import functional as F

from bitembed_core.divergence import exclude, kl_divergence
from bitembed_core.losses import (
    AttentionRelationDistillation,
    EmbeddingBatch,
    InfoNCE,
    MultiPrecisionLoss,
    SimilarityDistillation,
    relation_divergence,
)
from bitembed_core.losses.candidates import candidate_scores
from bitembed_core.ops.candidate_losses import triton as candidate_kernels
from bitembed_core.ops.relation_divergence import triton as relation_kernels


def batch(device: torch.device, dimension: int, B: int = 5, P: int = 9, K: int = 2, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, dimension), (P, dimension), (P, K, dimension))
    return EmbeddingBatch(*(torch.randn(s, generator=generator).to(device).requires_grad_() for s in shapes))


def gradients(loss: torch.Tensor, student: EmbeddingBatch) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, student))


@pytest.mark.parametrize("block", [4, 1024])
@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("margin", [None, 0.1])
def test_contrastive(margin, in_batch, block, device, everywhere, monkeypatch) -> None:
    monkeypatch.setattr(candidate_kernels, "BLOCK", block)
    student = batch(device, 16)
    loss = InfoNCE(0.05, margin)(*student, offset=2, in_batch=in_batch)
    scores, allowed, target = candidate_scores(student, 2, in_batch)
    if margin is not None:
        kept = scores <= scores.gather(1, target[:, None]) + margin
        allowed = kept if allowed is None else allowed & kept
    expected = F.cross_entropy(exclude(scores / 0.05, allowed), target)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    pairs = zip(gradients(loss, student), gradients(expected, student), strict=True)
    for actual, exact in pairs:
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [4, 1024])
@pytest.mark.parametrize("in_batch", [True, False])
def test_distillation(in_batch, block, device, everywhere, monkeypatch) -> None:
    monkeypatch.setattr(candidate_kernels, "BLOCK", block)
    student, teacher = batch(device, 16), batch(device, 24, seed=1)
    loss = SimilarityDistillation(0.05)(student, teacher, offset=1, in_batch=in_batch)
    (s, allowed, _), (t, _, _) = (candidate_scores(b, 1, in_batch) for b in (student, teacher))
    expected = kl_divergence(t / 0.05, s / 0.05, allowed).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for actual, exact in zip(gradients(loss, student), gradients(expected, student), strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-6)


def test_one_candidate_and_extreme_scores(device, everywhere) -> None:
    one = EmbeddingBatch(*(torch.randn(1, 4, device=device) for _ in range(2)))
    assert InfoNCE(0.02)(*one).item() == pytest.approx(0, abs=1e-6)
    same = torch.ones(3, 4, device=device)
    assert InfoNCE(1e-4)(same, same).item() == pytest.approx(math.log(3), abs=2e-3)  # logits of 10,000
    far = EmbeddingBatch(same, -same)
    assert torch.isfinite(SimilarityDistillation(1e-3)(far, EmbeddingBatch(same, same)))


def test_all_precisions(device, everywhere, monkeypatch) -> None:
    student, teacher = batch(device, 12), batch(device, 12, seed=1)
    terms = MultiPrecisionLoss()(student, teacher)
    actual = gradients(terms.total, student)
    monkeypatch.undo()
    plain = MultiPrecisionLoss()(student, teacher)
    for bits in (1, 2, 4, 8, 16):
        torch.testing.assert_close(terms.contrastive[bits], plain.contrastive[bits], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(terms.distillation[bits], plain.distillation[bits], rtol=1e-5, atol=1e-6)
    for a, b in zip(actual, gradients(plain.total, student), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 16, 37, 70])
@pytest.mark.parametrize(("width", "teacher_width"), [(8, 8), (20, 33), (1, 130)])
def test_relations(tokens, width, teacher_width, device) -> None:
    torch.manual_seed(tokens)
    student, teacher = (
        F.normalize(torch.randn(3, 2, tokens, w, device=device), dim=-1) for w in (width, teacher_width)
    )
    student.requires_grad_()
    real = torch.ones(3, tokens, dtype=torch.bool, device=device)
    real[1, tokens // 2 :] = False
    real[2] = False  # nothing real at all
    arguments = (student, teacher, real)
    expected = relation_divergence.plain(*arguments, (0.7, 1.3))
    (exact,) = torch.autograd.grad(expected, student)
    total, _ = relation_kernels.relation_divergence(*arguments, 0.7, 1.3)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(2 * total, student)
    torch.testing.assert_close(gradient, 2 * exact, rtol=1e-4, atol=2e-6)


def test_relations_of_large_states(device) -> None:
    student = 30 * torch.randn(1, 1, 20, 16, device=device)
    teacher = 30 * torch.randn(1, 1, 20, 16, device=device)
    real = torch.ones(1, 20, dtype=torch.bool, device=device)
    total, gradient = relation_kernels.relation_divergence(student, teacher, real, 1.0, 1.0)
    expected = relation_divergence.plain(student.double(), teacher.double(), real, (1.0, 1.0))
    torch.testing.assert_close(total.double(), expected, rtol=1e-4, atol=1e-3)
    assert torch.isfinite(gradient).all()


def test_the_loss_takes_the_kernel(device, everywhere, monkeypatch) -> None:
    from bitembed_core.attention import AttentionStates

    torch.manual_seed(0)
    states = [AttentionStates(*(torch.randn(2, 4, 9, 8, device=device) for _ in range(3))) for _ in range(2)]
    mask = torch.ones(2, 9, device=device)
    by_kernel = AttentionRelationDistillation(4)(*states, mask)
    monkeypatch.undo()
    torch.testing.assert_close(
        by_kernel, AttentionRelationDistillation(4)(*states, mask), rtol=1e-4, atol=1e-6
    )


def test_operators_are_registered_in_full(device) -> None:
    scores, teacher = torch.randn(3, 7, device=device), torch.randn(3, 7, device=device)
    target, owner = torch.tensor([0, 1, 2], device=device), torch.arange(7, device=device) % 3
    torch.library.opcheck(candidate_kernels.contrastive_rows, (scores, target, owner, 0.05, 0.1))
    torch.library.opcheck(candidate_kernels.contrastive_rows, (scores, target, None, 0.05, None))
    torch.library.opcheck(candidate_kernels.distillation_rows, (scores, teacher, target, owner, 0.05))
    student = torch.randn(1, 2, 5, 4, device=device, requires_grad=True)
    real = torch.ones(1, 5, dtype=torch.bool, device=device)
    torch.library.opcheck(relation_kernels.relation_divergence, (student, student.detach(), real, 1.0, 1.0))
