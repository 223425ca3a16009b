"""A narrow search proposes, wider codes decide."""

import numpy as np
import pytest

from workbench.search import PackedIndex, Rescored, hits, same_texts
from workbench.search.exact import ExactSearch
from workbench.search.vector_search import NOTHING, Found


def by_hand(narrow, wide, q, top, oversampling, rows) -> list[list[int]]:
    """Sort by narrow scores, keep some, sort those by wide scores."""
    lines = []
    for narrow_N, wide_N in zip(narrow.scores(q), wide.scores(q), strict=True):
        proposed = sorted(rows, key=lambda row: -narrow_N[row])[: top * oversampling]
        lines.append(sorted(proposed, key=lambda row: -wide_N[row])[:top])
    return lines


@pytest.mark.parametrize("oversampling", [1, 4])
@pytest.mark.parametrize(("first", "second"), [("int2", "int8"), ("int2-fitted", "float16")])
def test_rescoring_by_hand(first, second, oversampling, stored, clusters):
    narrow, wide, q = stored(first), stored(second), clusters(9, seed=1)
    search = Rescored(ExactSearch(narrow), ExactSearch(wide), oversampling)
    for among in (None, np.arange(0, 500, 3)):
        found = search.best(q, 6, among)
        rows = range(500) if among is None else among
        assert found.rows.tolist() == by_hand(narrow, wide, q, 6, oversampling, rows)
        np.testing.assert_allclose(
            found.scores, np.take_along_axis(wide.scores(q), found.rows, axis=1), atol=1e-5
        )


def test_rescoring_finds_more_of_what_the_wide_codes_find(stored, clusters):
    narrow, wide, q = ExactSearch(stored("binary")), ExactSearch(stored("int8")), clusters(40, seed=1)
    expected = wide.best(q, 10).rows
    shares = [
        np.mean([len(set(a) & set(b)) for a, b in zip(search.best(q, 10).rows, expected, strict=True)])
        for search in (narrow, Rescored(narrow, wide, 2), Rescored(narrow, wide, 8))
    ]
    assert shares[0] + 1 < shares[1] < shares[2]


def test_texts_are_matched_by_id(indexed, clusters):
    narrow, wide, q = indexed("int2"), indexed("int8"), clusters(9, seed=1)
    order = np.random.default_rng(3).permutation(500)
    texts = wide.rows(order)
    shuffled = PackedIndex(wide.vectors[order], [t.id for t in texts], [t.text for t in texts])
    assert same_texts(narrow.ids(), wide.ids()) is None
    matched = Rescored(narrow, shuffled, 4, same_texts(narrow.ids(), shuffled.ids()))
    plain = Rescored(narrow, wide, 4)
    for among in (None, np.arange(0, 500, 7), np.arange(8)):
        assert hits(narrow, matched.best(q, 5, among)) == hits(narrow, plain.best(q, 5, among))


@pytest.mark.parametrize(
    ("narrow", "wide", "only"),
    [(["a", "b"], ["a"], "b"), (["a"], ["a", "b"], "b"), (["a", "b"], ["a", "c"], "b")],
)
def test_other_texts_are_refused(narrow, wide, only):
    with pytest.raises(ValueError, match=f"only one of them has the id '{only}'; encode both"):
        same_texts(narrow, wide)


def test_other_vectors_and_no_oversampling_are_refused(stored):
    whole = ExactSearch(stored())
    with pytest.raises(ValueError, match=r"500 vectors of 20 .* with 499 of 20"):
        Rescored(whole, ExactSearch(stored()[:499]))
    with pytest.raises(ValueError, match=r"500 vectors of 20 .* with 500 of 12"):
        Rescored(whole, ExactSearch(stored(dim=12)))
    with pytest.raises(ValueError, match="at least 1"):
        Rescored(whole, whole, 0)


def test_too_few_proposals_are_made_up_for(stored, clusters):
    vectors, q = stored(), clusters(3, seed=1)

    class FindsLittle(ExactSearch):
        def best(self, queries, top=10, among=None):
            rows_QK = np.full((len(queries), top), NOTHING)
            rows_QK[:, 1] = 7
            return Found(rows_QK, np.zeros(rows_QK.shape, np.float32))

    found = Rescored(FindsLittle(vectors), ExactSearch(vectors)).best(q, 5)
    exact = ExactSearch(vectors).best(q, 5)
    assert (found.rows == exact.rows).all()
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)


@pytest.mark.parametrize("precision", ["int8", "int2", "binary-fitted", "float16"])
def test_symmetric_search_stores_the_query_first(precision, stored, clusters):
    vectors, q = stored(precision), clusters(5, seed=1)
    found = ExactSearch(vectors, symmetric=True).best(q, 4)
    scores = vectors.scores(vectors.format.encode(q))
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :4], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found.rows, axis=1), found.scores, atol=1e-5)
