import math

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

from bitembed_core.losses import EmbeddingBatch, InfoNCE, candidate_scores


def cosine(a, b):
    a, b = a.tolist(), b.tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_info_nce(queries, positives, negatives, tau, offset=0, in_batch=True, margin=None):
    losses = []
    for i, query in enumerate(queries):
        own = offset + i
        candidates = [(own, positives[own])]
        for p in range(len(positives)):
            if p != own and in_batch:
                candidates.append((p, positives[p]))
            if negatives is not None and (in_batch or p == own):
                candidates += [(p, negative) for negative in negatives[p]]
        scores = [cosine(query, text) for _, text in candidates]
        kept = [scores[0]] + [s for s in scores[1:] if margin is None or s <= scores[0] + margin]
        losses.append(math.log(sum(math.exp(s / tau) for s in kept)) - scores[0] / tau)
    return sum(losses) / len(losses)


def random_batch(b=4, p=None, k=3, d=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype, requires_grad=True)

    p = b if p is None else p
    return EmbeddingBatch(draw(b, d), draw(p, d), draw(p, k, d) if k else None)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("margin", [None, 0.1, 0.0])
def test_equals_slow_loop(k, in_batch, margin):
    batch = random_batch(b=3, p=5, k=k)
    loss = InfoNCE(0.1, margin)(*batch, offset=2, in_batch=in_batch)
    expected = slow_info_nce(*batch, tau=0.1, offset=2, in_batch=in_batch, margin=margin)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_equals_sentence_transformers_in_value_and_gradient(k):
    batch = random_batch(b=5, k=k, dtype=torch.float32)
    leaves = [e for e in batch if e is not None]
    columns = [batch.queries, batch.positives, *([] if not k else batch.negatives.unbind(1))]
    theirs = MultipleNegativesRankingLoss(None, scale=50.0).compute_loss_from_embeddings(columns, None)
    ours = InfoNCE(temperature=0.02)(*batch)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class LookUp(torch.nn.Module):
    """A stand-in for a SentenceTransformer: the features already are the embeddings."""

    def forward(self, features):
        return {"sentence_embedding": features["embedding"]}

    def get_embedding_dimension(self):
        return 8


def test_truncated_dimensions_equal_matryoshka_loss():
    queries, positives, negatives = random_batch(b=5, k=2, d=8, dtype=torch.float32)
    model = LookUp()
    matryoshka = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, scale=50.0), [8, 4, 2])
    theirs = matryoshka([{"embedding": e} for e in (queries, positives, *negatives.unbind(1))], None)
    ours = sum(InfoNCE(0.02)(queries[:, :d], positives[:, :d], negatives[..., :d]) for d in (8, 4, 2))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("in_batch", [True, False])
def test_two_processes_with_gathered_candidates_equal_one(in_batch):
    batch = random_batch(b=6, k=2)
    loss = InfoNCE(0.05, false_negative_margin=0.1)
    whole = loss(*batch, in_batch=in_batch)
    halves = [
        loss(batch.queries[r : r + 3], batch.positives, batch.negatives, offset=r, in_batch=in_batch)
        for r in (0, 3)
    ]
    split = torch.stack(halves).mean()
    torch.testing.assert_close(split, whole)
    gradients = zip(torch.autograd.grad(split, batch), torch.autograd.grad(whole, batch), strict=True)
    for a, b in gradients:
        torch.testing.assert_close(a, b)


def test_mask_drops_only_negatives_far_above_the_positive():
    query = torch.tensor([[1.0, 0.0]])
    positive = torch.tensor([[math.cos(0.8), math.sin(0.8)]])
    twin, hard = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(0.75), math.sin(0.75)])
    both = InfoNCE(0.02, 0.1)(query, positive, torch.stack([twin, hard])[None])
    only_hard = InfoNCE(0.02)(query, positive, hard[None, None])
    torch.testing.assert_close(both, only_hard)


def test_candidates_are_positives_then_negatives_and_can_be_restricted_to_ones_own():
    batch = random_batch(b=2, k=2)
    scores, allowed, target = candidate_scores(batch, in_batch=False)
    assert scores.shape == (2, 2 + 2 * 2)
    assert target.tolist() == [0, 1]
    assert allowed.tolist() == [
        [True, False, True, True, False, False],
        [False, True, False, False, True, True],
    ]


@pytest.mark.parametrize("in_batch", [True, False])
def test_single_pair_and_identical_vectors_are_finite(in_batch):
    one = torch.ones(1, 4, requires_grad=True)
    loss = InfoNCE()(one, one, in_batch=in_batch)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(one.grad).all()
    same = torch.ones(3, 4)
    assert InfoNCE()(same, same).item() == pytest.approx(math.log(3), rel=1e-6)
    assert torch.isfinite(InfoNCE()(torch.zeros(3, 4), same, torch.zeros(3, 2, 4)))


def test_nan_is_not_hidden_by_the_mask():
    bad = torch.full((2, 4), float("nan"))
    assert InfoNCE(false_negative_margin=0.1)(bad, torch.ones(2, 4)).isnan()


def test_bfloat16_and_autocast_compare_in_float32():
    batch = EmbeddingBatch(*(e.detach().bfloat16() for e in random_batch(b=8, k=2, d=64)))
    exact = InfoNCE()(*(e.float() for e in batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = InfoNCE()(*batch)
    assert torch.equal(InfoNCE()(*batch), exact)
    assert torch.equal(under_autocast, exact)


@pytest.mark.parametrize(
    ("shapes", "offset", "message"),
    [
        (((2, 4), (2, 5), None), 0, "same d"),
        (((2, 4), (2, 2, 4), None), 0, "matrices"),
        (((0, 4), (2, 4), None), 0, "no queries"),
        (((3, 4), (2, 4), None), 0, "2 positives"),
        (((2, 4), (4, 4), None), 3, "offset 3"),
        (((2, 4), (4, 4), None), -1, "offset -1"),
        (((2, 4), (2, 4), (2, 4)), 0, "negatives must be"),
        (((2, 4), (4, 4), (2, 1, 4)), 0, "P = 4"),
        (((2, 4), (2, 4), (2, 1, 3)), 0, "d = 4"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes, offset, message):
    tensors = [None if shape is None else torch.ones(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        InfoNCE()(*tensors, offset=offset)


@pytest.mark.parametrize("arguments", [(0.0,), (-1.0,), (0.02, -0.1)])
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        InfoNCE(*arguments)
