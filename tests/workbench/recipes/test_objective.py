"""The weighted sum of the losses against its formula, written out with loops."""

import math

import pytest
import torch
from torch import Tensor

from bitembed_core.attention import AttentionStates
from bitembed_core.losses import EmbeddingBatch
from workbench.recipes.distill import DistillConfig
from workbench.recipes.forward import Embedded
from workbench.recipes.objective import Objective
from workbench.recipes.pretrain import PretrainConfig
from workbench.recipes.teacher import TeacherConfig


def embedded(seed: int, dim: int = 12, heads: int = 2) -> Embedded:
    """Three queries with two hard negatives each, in two groups of texts: 5 x 4 and 7 x 6 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    batch = EmbeddingBatch(normal(3, dim), normal(3, dim), normal(3, 2, dim))
    states = [AttentionStates(*(normal(n, heads, t, 4) for _ in range(3))) for n, t in ((5, 4), (7, 6))]
    masks = [torch.ones(5, 4, dtype=torch.long), torch.ones(7, 6, dtype=torch.long)]
    masks[0][2, 3] = masks[1][0, 4:] = 0
    return Embedded(batch, states, masks)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def log_shares(batch: EmbeddingBatch, query: int) -> Tensor:
    """log softmax over the positives and then all hard negatives, at temperature 0.02."""
    candidates = [*batch.positives, *batch.negatives.flatten(0, 1)]
    return torch.stack([cosine(batch.queries[query], c) / 0.02 for c in candidates]).log_softmax(0)


def rounded(e: Tensor, bits: int) -> Tensor:
    """Eq 10 and 11, value by value."""
    if bits == 16:
        return e
    flat = e.reshape(-1, e.shape[-1])
    rows = []
    for row in flat:
        a, m = row.abs().max(), 2**bits - 1
        if bits == 1:
            rows.append(torch.where(row >= 0, a, -a))
        else:
            z = ((row / a + 1) / 2 * m).round().clamp(0, m)
            rows.append((2 * z / m - 1) * a)
    return torch.stack(rows).reshape(e.shape)


def slow_relations(student: Embedded, teacher: Embedded, heads: int) -> float:
    """Mean over Q, K, V, relation heads and real tokens of all groups."""
    total, count = 0.0, 0
    for ours, theirs, mask in zip(student.states, teacher.states, student.masks, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            for text in range(len(mask)):
                real = mask[text].bool()
                a_TW, b_TW = (x[text].transpose(0, 1).flatten(1)[real] for x in (a, b))
                for head in range(heads):
                    logs = []
                    for x in (a_TW, b_TW):
                        width = x.shape[1] // heads
                        unit = torch.nn.functional.normalize(x[:, head * width : (head + 1) * width], dim=1)
                        logs.append((unit @ unit.T / math.sqrt(width)).log_softmax(1))
                    total += float((logs[1].exp() * (logs[1] - logs[0])).sum())
                    count += int(real.sum())
    return total / count


def test_the_paper_s_stage_2() -> None:
    student, teacher = embedded(0), embedded(1, dim=20, heads=4)
    config = DistillConfig(relation_heads=2)
    losses = Objective.of(config)(student, teacher, in_batch=True)
    contrastive, similarity = {}, {}
    for bits in (1, 2, 4, 8, 16):
        low = EmbeddingBatch(*(rounded(e, bits) for e in student.batch))
        ours = [log_shares(low, i) for i in range(3)]
        theirs = [log_shares(teacher.batch, i) for i in range(3)]
        contrastive[bits] = -sum(float(ours[i][i]) for i in range(3)) / 3
        similarity[bits] = (
            sum(float((t.exp() * (t - s)).sum()) for s, t in zip(ours, theirs, strict=True)) / 3
        )
    assert losses.terms.keys() == {"contrastive", "similarity", "relations"}
    assert float(losses.terms["contrastive"]) == pytest.approx(sum(contrastive.values()) / 5, rel=1e-4)
    assert float(losses.terms["similarity"]) == pytest.approx(0.2 * sum(similarity.values()) / 5, rel=1e-4)
    assert float(losses.terms["relations"]) == pytest.approx(
        1e4 * slow_relations(student, teacher, 2), rel=1e-4
    )
    for bits, expected in contrastive.items():
        assert float(losses.by_bits[f"contrastive_{bits}bit"]) == pytest.approx(expected, rel=1e-4)


def test_stage_1_with_a_teacher_of_the_same_dimension() -> None:
    student, teacher = embedded(0), embedded(1)
    losses = Objective.of(PretrainConfig(spread_out_weight=2.0))(student, teacher, in_batch=True)
    pairs = [
        pair
        for name in ("queries", "positives", "negatives")
        for pair in zip(
            getattr(student.batch, name).reshape(-1, 12),
            getattr(teacher.batch, name).reshape(-1, 12),
            strict=True,
        )
    ]
    regression = sum(1 - float(cosine(*pair)) for pair in pairs) / len(pairs)
    assert len(pairs) == 12
    assert float(losses.terms["regression"]) == pytest.approx(5 * regression, rel=1e-5)
    spread = [
        sum(float(cosine(e[i], e[j])) ** 2 for i in range(3) for j in range(3) if i != j) / 6
        for e in (student.batch.queries, student.batch.positives)
    ]
    assert float(losses.terms["spread_out"]) == pytest.approx(2 * sum(spread) / 2, rel=1e-5)
    assert losses.by_bits == {}


def test_stage_0_is_info_nce_alone() -> None:
    student = embedded(0)
    losses = Objective.of(TeacherConfig())(student, None, in_batch=True)
    assert losses.terms.keys() == {"contrastive"}
    expected = -sum(float(log_shares(student.batch, i)[i]) for i in range(3)) / 3
    assert float(losses.terms["contrastive"]) == pytest.approx(expected, rel=1e-5)


def test_without_in_batch_negatives_only_the_own_ones_count() -> None:
    student = embedded(0)
    losses = Objective()(student, None, in_batch=False)
    total = 0.0
    for i in range(3):
        own = [student.batch.positives[i], *student.batch.negatives[i]]
        shares = torch.stack([cosine(student.batch.queries[i], c) / 0.02 for c in own]).log_softmax(0)
        total -= float(shares[0]) / 3
    assert float(losses.terms["contrastive"]) == pytest.approx(total, rel=1e-5)


def test_layers_are_about_60_percent_or_as_told() -> None:
    on = Objective(relation_weight=1.0)
    assert Objective().layers(28, 28) is None
    assert on.layers(28, 28) == (17, 17)
    assert on.layers(6, 6) == (3, 3)
    assert on.layers(6, 12) == (3, 7)
    assert Objective(relation_weight=1.0, relation_layer=2).layers(6, 12) == (2, 5)
    with pytest.raises(ValueError, match="relation_layer must be 0 to 5 for this model, not 6"):
        Objective(relation_weight=1.0, relation_layer=6).layers(6, 12)


def test_float_queries_weigh_both_losses() -> None:
    student, teacher = embedded(0), embedded(1)
    config = DistillConfig(bits=(1,), relation_weight=0.0, contrastive_weight=0.5, float_queries_weight=2.0)
    losses = Objective.of(config)(student, teacher, in_batch=True)
    mixed = student.batch._replace(
        positives=rounded(student.batch.positives, 1), negatives=rounded(student.batch.negatives, 1)
    )
    ours, theirs = ([log_shares(batch, i) for i in range(3)] for batch in (mixed, teacher.batch))
    contrastive = -sum(float(ours[i][i]) for i in range(3)) / 3
    similarity = sum(float((t.exp() * (t - s)).sum()) for s, t in zip(ours, theirs, strict=True)) / 3
    expected = 2.0 * (0.5 * contrastive + 0.2 * similarity)
    assert float(losses.terms["float_queries"]) == pytest.approx(expected, rel=1e-4)


def test_fitted_formats_by_name() -> None:
    losses = Objective.of(DistillConfig(bits=(16, "int2-fitted")))(embedded(0), None, in_batch=True)
    assert losses.by_bits.keys() == {"contrastive_16bit", "contrastive_int2-fitted"}
