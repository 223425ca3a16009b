"""Recall of every format by brute force: decoded vectors, all cosines, all sorted."""

import numpy as np
import pytest

from bitembed_core import StorageFormat
from workbench.explorer.formats import (
    MOST_OVERSAMPLING,
    RESCORERS,
    FormatExplorer,
    Recall,
    Setting,
    cheapest,
    format_names,
)
from workbench.search import ExactSearch, Rescored

DIM, TOP = 40, 5
FORMATS = ("float16", "int8", "int4-fitted", "int2", "ternary-fitted", "binary", "float32-20d", "int4-20d")


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((12, DIM))
    draw = lambda n: unit(centres[rng.integers(12, size=n)] + 0.7 * rng.standard_normal((n, DIM)))  # noqa: E731
    return draw(400), draw(15)


@pytest.fixture(scope="module")
def explorer(vectors):
    return FormatExplorer(*vectors, top=TOP)


def cosines(queries, documents, kept):
    """Cosines of the first `kept` components."""
    q, d = (x[:, :kept].astype(np.float64) for x in (queries, documents))
    return (q @ d.T) / (np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(d, axis=1))


def best(scores, top):
    """Rows of the best, equal ones in order; codes of one bit have many equals."""
    return np.argsort(-scores.round(6), axis=1, kind="stable")[:, :top]


def by_hand(vectors, setting):
    """Mean share of the float32 neighbours; fitted formats are compared by inner products with what they decode to."""
    documents, queries = vectors
    truth = best(queries.astype(np.float64) @ documents.T, TOP)

    def scores(name):
        form = StorageFormat(name, DIM)
        asked = queries if setting.float_queries else form.encode(queries).decode()
        decoded = form.encode(documents).decode()
        if form.scheme is not None and form.scheme.fitted:
            q = asked[:, : form.kept].astype(np.float64)
            return (q / np.linalg.norm(q, axis=1, keepdims=True)) @ decoded[:, : form.kept].T
        return cosines(asked, decoded, form.kept)

    if setting.rescore is None:
        found = best(scores(setting.precision), TOP)
    else:
        candidates = best(scores(setting.precision), TOP * setting.oversampling)
        again = scores(setting.rescore)
        found = np.array(
            [
                sorted(rows, key=lambda row: (-line[row].round(6), row))[:TOP]
                for rows, line in zip(candidates, again, strict=True)
            ]
        )
    return np.mean([len(set(a) & set(b)) / TOP for a, b in zip(found, truth, strict=True)])


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("float_queries", [True, False])
def test_recall_by_brute_force(explorer, vectors, precision, float_queries):
    setting = Setting(precision, float_queries)
    assert explorer.recall(setting).recall == pytest.approx(by_hand(vectors, setting), abs=1e-9)


@pytest.mark.parametrize("rescore", ["int8", "float32"])
@pytest.mark.parametrize("float_queries", [True, False])
@pytest.mark.parametrize("oversampling", [2, 6])
def test_rescored_recall_by_brute_force(explorer, vectors, rescore, float_queries, oversampling):
    for precision in ("binary", "int4-20d"):
        setting = Setting(precision, float_queries, rescore, oversampling)
        expected = by_hand(vectors, setting)
        assert explorer.recall(setting).recall == pytest.approx(expected, abs=1e-9)
        assert expected > by_hand(vectors, Setting(precision, float_queries))


def test_what_controls_show_is_what_the_searches_return(explorer, vectors):
    documents, queries = vectors
    setting = Setting("int2-fitted", True, "int8", 3)
    stored = [ExactSearch(StorageFormat(name, DIM).encode(documents)) for name in ("int2-fitted", "int8")]
    np.testing.assert_array_equal(
        np.sort(explorer.found(setting), axis=1),
        np.sort(Rescored(*stored, 3).best(queries, TOP).rows, axis=1),
    )
    for number, query in enumerate(queries[:4]):
        np.testing.assert_array_equal(
            explorer.answer(query, setting).rows[0], explorer.found(setting)[number]
        )
    exact = explorer.answer(queries[0], Setting("float32"))
    order = best(queries[:1] @ documents.T, TOP)
    np.testing.assert_array_equal(exact.rows, order)
    np.testing.assert_allclose(exact.scores[0], (queries[:1] @ documents.T)[0, order[0]], rtol=1e-6)


def test_a_format_is_rescored_only_by_a_wider_one(explorer):
    for precision in ("float16", "int8"):
        row = explorer.recall(Setting(precision, rescore="int8"))
        assert row == Recall(row.setting, StorageFormat(precision, DIM).bytes_per_vector, 0, row.recall)
        assert row.recall == explorer.recall(Setting(precision)).recall
    narrow = explorer.recall(Setting("binary", rescore="int8"))
    assert (narrow.bytes_searched, narrow.bytes_beside) == (DIM // 8 + 4, DIM + 4)


def test_prepared_formats_are_not_encoded_again(vectors, monkeypatch):
    explorer = FormatExplorer(*vectors, top=TOP)
    assert list(explorer.prepare(["int2"])) == ["int2", *(f"rescoring with {name}" for name in RESCORERS)]
    monkeypatch.setattr(StorageFormat, "encode", lambda *_: pytest.fail("encoded again"))
    for oversampling in (1, MOST_OVERSAMPLING):
        explorer.recall(Setting("int2", True, "int8", oversampling))
    explorer.recall(Setting("int2", True, "float32"))


def test_fewer_vectors_than_neighbours(vectors):
    documents, queries = vectors
    explorer = FormatExplorer(documents[:3], queries)
    assert explorer.recall(Setting("binary")).recall == 1
    assert explorer.answer(queries[0], Setting("binary", rescore="int8")).rows.shape == (1, 3)


def test_senseless_settings_are_refused(vectors):
    with pytest.raises(ValueError, match="rescoring is done with"):
        Setting("binary", rescore="binary")
    for oversampling in (0, MOST_OVERSAMPLING + 1):
        with pytest.raises(ValueError, match="oversampling must be"):
            Setting("binary", oversampling=oversampling)
    with pytest.raises(ValueError, match="both are needed"):
        FormatExplorer(vectors[0], vectors[1][:0])
    with pytest.raises(ValueError, match="both are needed"):
        FormatExplorer(vectors[0], vectors[1][:, :20])


def test_names_of_formats_have_every_length_but_exact_itself():
    names = format_names(DIM)
    assert "float32" not in names
    assert {"float32-20d", "binary-10d", "int2-fitted"} <= set(names)
    assert len(names) == len(set(names))
    for name in names:
        StorageFormat(name, DIM)


def test_cheapest_finds_enough_in_the_fewest_bytes():
    rows = [
        Recall(Setting("int8"), 44, 0, 0.99),
        Recall(Setting("int2"), 14, 0, 0.8),
        Recall(Setting("binary"), 9, 44, 0.9),
        Recall(Setting("binary"), 9, 0, 0.5),
    ]
    assert cheapest(rows, 0.9) is rows[2]
    assert cheapest(rows, 0.95) is rows[0]
    assert cheapest(rows, 1) is None
