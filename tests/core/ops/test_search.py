"""Native search over packed codes, on every instruction set, against scores of everything."""

import numpy as np
import pytest
import torch

from bitembed_core import StorageFormat
from bitembed_core.ops import library
from bitembed_core.ops.packed_scores import PackedScores, native
from bitembed_core.ops.packed_scores.reference import values
from bitembed_core.storage.formats import SCHEMES

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library was not built")


def documents(name: str, n: int, dim: int, device: str = "cpu") -> PackedScores:
    x = np.random.default_rng(dim + n).standard_normal((n, dim)).astype(np.float32)
    x[: n // 9] = 0
    x[n // 2 :: 7] = x[n // 2]  # equal ones
    return PackedScores(StorageFormat(name, dim).encode(x), device)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("n", "dim", "q"), [(1, 1, 1), (47, 5, 3), (200, 70, 8), (1000, 384, 17)])
def test_integer_search_is_exact(name, n, dim, q, isa) -> None:
    index = documents(name, n, dim)
    codes, weight, bits, top, *_ = index._documents.looked_up()
    dim = index.kept
    queries = torch.randint(-127, 128, (q, dim), dtype=torch.int8, generator=torch.Generator().manual_seed(q))
    queries[0] = 0
    sums = queries.long() @ values(codes, bits, top, dim).long().t()
    expected = (sums.float() * weight).sort(dim=1, descending=True, stable=True)
    for k in (1, 10, n):
        scores, rows = native.best_of_codes(queries, index._documents, k)
        assert torch.equal(scores, expected.values[:, : min(k, n)])
        assert torch.equal(rows, expected.indices[:, : min(k, n)])


@pytest.mark.parametrize("name", SCHEMES)
def test_search_with_floating_point_queries_is_exact(name) -> None:
    index = documents(name, 3000, 96)
    queries = np.random.default_rng(5).standard_normal((6, 96)).astype(np.float32)
    queries[1] = 0
    queries[2, 0] = 1e20  # rounding to int8 leaves one component
    expected = index.scores(queries)
    best = index.best(queries, 10)
    top = expected.sort(dim=1, descending=True).values[:, :10]
    torch.testing.assert_close(best.scores, top, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(expected.gather(1, best.rows), best.scores, rtol=1e-5, atol=2e-6)


def test_more_candidates_are_taken_while_there_is_doubt(monkeypatch) -> None:
    asked = []
    search = native.best_of_codes
    monkeypatch.setattr(native, "best_of_codes", lambda q, d, k: asked.append((len(q), k)) or search(q, d, k))
    x = 1 + 1e-4 * np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)  # all but equal
    index = PackedScores(StorageFormat("int8", 64).encode(x))
    queries = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    best = index.best(queries, 5)
    assert len(asked) > 1
    assert asked[0] == (3, 69)
    top = index.scores(queries).sort(dim=1, descending=True).values[:, :5]
    torch.testing.assert_close(best.scores, top, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("name", ["trellis-1.5bit-60d", "graded-1bit"])
def test_codes_of_a_trellis_are_expanded_in_parts(name, integer, monkeypatch) -> None:
    index = documents(name, 500, 70)
    queries = np.random.default_rng(5).standard_normal((4, 70)).astype(np.float32)
    whole, some = index.best(queries, 20, integer), index.best(queries, 20, integer, np.arange(3, 450, 2))
    monkeypatch.setattr(native, "LEVELS_AT_ONCE", 97 * 60)
    for expected, rows in ((whole, None), (some, np.arange(3, 450, 2))):
        best = index.best(queries, 20, integer, rows)
        assert torch.equal(best.rows, expected.rows)
        assert torch.equal(best.scores, expected.scores)


@pytest.mark.parametrize("name", ["int8", "ternary-fitted", "binary"])
def test_many_queries_share_expanded_documents(name, monkeypatch) -> None:
    index = documents(name, 300, 70)
    queries = np.random.default_rng(5).standard_normal((100, 70)).astype(np.float32)
    together = index.best(queries, 20)
    monkeypatch.setattr(native, "VALUES_AT_ONCE", 300 * 70)  # the documents, and the scores of 70 queries
    in_parts = index.best(queries, 20)
    monkeypatch.setattr(native, "DENSE", 0)
    alone = index.best(queries, 20)
    for other in (in_parts, alone):
        assert torch.equal(together.scores, other.scores)
        assert torch.equal(together.rows, other.rows)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads) -> None:
    index = documents("int2", 30000, 16)
    queries = torch.randint(-127, 128, (4, 16), dtype=torch.int8)
    before = torch.get_num_threads()
    expected = native.best_of_codes(queries, index._documents, 50)
    torch.set_num_threads(threads)
    found = native.best_of_codes(queries, index._documents, 50)
    torch.set_num_threads(before)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_strided_queries_are_copied_for_as_long_as_they_are_read() -> None:
    """A copy of so many bytes goes back to the system as soon as nothing holds it."""
    index = documents("int2", 3, 400)
    queries = torch.randint(
        -127, 128, (100_000, 400), dtype=torch.int8, generator=torch.Generator().manual_seed(1)
    )
    found, expected = (
        native.best_of_codes(q, index._documents, 2) for q in (queries.T.contiguous().T, queries)
    )
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_no_queries_and_no_documents() -> None:
    index = documents("binary", 20, 8)
    assert index.best(np.zeros((0, 8), dtype=np.float32), 3).rows.shape == (0, 3)
    empty = PackedScores(StorageFormat("binary", 8).encode(np.zeros((0, 8), dtype=np.float32)))
    assert empty.best(np.ones((2, 8), dtype=np.float32), 3).rows.shape == (2, 0)
