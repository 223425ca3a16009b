"""Scores of packed documents by Triton, and the search over them, against decoding everything."""

import numpy as np
import pytest
import torch

from bitembed_core import StorageFormat
from bitembed_core.ops import packed_scores as module
from bitembed_core.ops.packed_scores import PackedScores, keys_of, reference, split_keys
from bitembed_core.ops.packed_scores.triton import packed_scores

FORMATS = [
    "int8",
    "int4",
    "int2",
    "binary",
    "int4-fitted",
    "int2-fitted",
    "binary-fitted",
    "ternary-fitted",
    "trellis-1.5bit",
    "graded-1bit",
]


def documents(name: str, n: int, dim: int):
    x = np.random.default_rng(dim).standard_normal((n, dim)).astype(np.float32)
    x[0] = 0
    x[1] = 1
    return StorageFormat(name, dim).encode(x)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("n", "dim", "q"), [(3, 1, 1), (70, 13, 3), (65, 70, 17), (5, 384, 2)])
def test_scores(name, n, dim, q, device, everywhere) -> None:
    packed = documents(name, n, dim)
    queries = np.random.default_rng(1).standard_normal((q, dim)).astype(np.float32)
    queries[0] *= 1e-20
    scores = PackedScores(packed, device).scores(queries).cpu().numpy()
    np.testing.assert_allclose(scores, packed.scores(queries), atol=2e-6)
    assert (scores[:, 0] == 0).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dim", [1, 13, 70])
def test_integer_scores_are_exact(name, dim, device) -> None:
    packed = documents(name, 40, dim)
    documents_ = PackedScores(packed, device)._documents.looked_up()
    dim = packed.format.kept
    queries = torch.randint(-127, 128, (5, dim), dtype=torch.int8, device=device)
    queries[0] = 0
    codes = documents_._replace(weight_N=torch.ones(40, device=device))[:4]
    top = packed.format.scheme.top
    unscaled = torch.from_numpy(packed.format.unscaled(packed.codes)).double() * top
    sums = queries.cpu().double() @ unscaled.round().t()
    lengths = queries.cpu().double().norm(dim=1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(
        packed_scores(queries, *codes).cpu().double(), sums / lengths, rtol=1e-6, atol=0
    )
    expected = reference.packed_scores(queries, *documents_[:4])
    torch.testing.assert_close(packed_scores(queries, *documents_[:4]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_best_documents_in_chunks(name, integer, device, monkeypatch, everywhere) -> None:
    packed = documents(name, 90, 24)
    queries = np.random.default_rng(2).standard_normal((4, 24)).astype(np.float32)
    index = PackedScores(packed, device)
    scores = index.scores(queries, integer=integer)
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 4 * 7)
    monkeypatch.setattr(module.library, "available", lambda: False)  # which would search natively
    best = index.best(queries, 10, integer)
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(best.rows, expected.indices[:, :10])
    assert torch.equal(best.scores, expected.values[:, :10])


def test_equal_scores_keep_the_order_of_documents(device) -> None:
    same = StorageFormat("int8", 8).encode(np.ones((50, 8), dtype=np.float32))
    best = PackedScores(same, device).best(torch.ones(2, 8), 7)
    assert best.rows.tolist() == [list(range(7))] * 2
    assert PackedScores(same, device).best(torch.ones(1, 8), 99).rows.shape == (1, 50)


def test_keys_order_like_scores() -> None:
    scores = torch.tensor([[-1.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1.0]])
    keys = keys_of(scores, 5)
    assert keys[0, 3] < keys[0, 2]  # equal scores, the first one wins
    assert (keys[0, 4:] > keys[0, 2]).all()
    assert (keys[0].diff()[[0, 1, 4, 5]] > 0).all()
    back, rows = split_keys(keys)
    assert torch.equal(back, scores + 0.0)
    assert rows.tolist() == [[5, 6, 7, 8, 9, 10, 11]]


def test_what_cannot_be_compared(device) -> None:
    x = np.ones((2, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="no packed codes"):
        PackedScores(StorageFormat("float16", 4).encode(x), device)
    index = PackedScores(StorageFormat("int4", 4).encode(x), device)
    with pytest.raises(ValueError, match=r"must be \(q, 4\)"):
        index.scores(np.ones((1, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="NaN"):
        index.scores(np.full((1, 4), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="at least 1"):
        index.best(x, 0)


def test_operators_are_registered_in_full(device) -> None:
    codes = torch.randint(0, 256, (6, 3), dtype=torch.uint8, device=device)
    for queries in (torch.randn(2, 11, device=device), torch.ones(2, 11, dtype=torch.int8, device=device)):
        torch.library.opcheck(packed_scores, (queries, codes, torch.ones(6, device=device), 2, 3))
