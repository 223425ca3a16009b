"""What an engine has to find in an exported index."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from workbench.search import Hit, PackedIndex
from workbench.search.engines.metadata import json_object
from workbench.search.engines.vectors import asked, stored

TOP = 10


def recall(found: list[list[Hit]], expected: list[list[Hit]]) -> float:
    """The share of what is expected that was found."""
    shared = [
        len({h.id for h in one} & {h.id for h in other}) for one, other in zip(found, expected, strict=True)
    ]
    return sum(shared) / sum(map(len, expected))


def agrees_with_the_index(found: list[list[Hit]], index: PackedIndex, queries: np.ndarray) -> None:
    """Values: the hits of exact search in the index, with its scores and texts."""
    expected = index.search(queries, TOP)
    assert recall(found, expected) >= 0.99
    texts = {row.id: row.text for row in index.rows(np.arange(len(index)))}
    for hits, wanted in zip(found, expected, strict=True):
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in wanted], abs=2e-3)
        assert all(hit.text == texts[hit.id] for hit in hits)


def agrees_with_codes(found: list[list[Hit]], index: PackedIndex, queries: np.ndarray, type_: str) -> None:
    """Codes: the best scores of a plain comparison of codes, and each hit has its own score; ties in any order."""
    codes_ND, codes_QD = stored(index.vectors, type_), asked(queries, index.format, type_)
    kept = index.format.kept
    if type_ == "bits":
        bits_ND, bits_QD = (np.unpackbits(c, axis=1, count=kept).astype(int) for c in (codes_ND, codes_QD))
        scores_QN = 1 - 2 * (bits_QD[:, None] != bits_ND).sum(axis=2) / kept
    else:
        unit_ND, unit_QD = (
            c / np.linalg.norm(c, axis=1, keepdims=True)
            for c in (codes_ND.astype(float), codes_QD.astype(float))
        )
        scores_QN = unit_QD @ unit_ND.T
    row_of = {id_: row for row, id_ in enumerate(index.ids())}
    for hits, scores_N in zip(found, scores_QN, strict=True):
        assert len({hit.id for hit in hits}) == TOP
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores_N)[::-1][:TOP], abs=1e-5)
        assert [hit.score for hit in hits] == pytest.approx([scores_N[row_of[h.id]] for h in hits], abs=1e-5)


def has_every_row(
    find: Callable[[np.ndarray, int], list[list[Hit]]],
    index: PackedIndex,
    query: np.ndarray,
    kept: Callable[[Mapping[str, Any]], dict[str, Any]] = json_object,
) -> None:
    """The engine holds the index's ids, texts and metadata, as it keeps that, once each."""
    (hits,) = find(query, len(index))
    rows = index.rows(np.arange(len(index)))
    found = {hit.id: (hit.text, json_object(hit.metadata)) for hit in hits}
    assert len(found) == len(hits)
    assert found == {row.id: (row.text, kept(row.metadata)) for row in rows}
