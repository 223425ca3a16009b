"""Held-out examples: none is trained on, and the score is nDCG@10."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from workbench.catalog.example import ExampleSource
from workbench.recipes.dev_set import DevSet


class Fixed:
    """An embedder of known vectors."""

    max_length = 99

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors, self.lengths = vectors, []

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        self.lengths.append(self.max_length)
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    encode_document = encode_query


def test_held_out_texts_are_gone_from_the_sources(made_up_source: Callable[..., ExampleSource]) -> None:
    sources = [made_up_source("a", 200, 2), made_up_source("b", 60, seed=1), made_up_source("c", 9, seed=2)]
    dev, rest = DevSet.hold_out(sources, 30, seed=0)
    assert len(dev.queries) == len(dev.answers) == len(set(dev.queries)) == 10 + 6 + 0  # at most a tenth
    held = {*dev.queries, *dev.answers}
    assert all(held.isdisjoint(example.texts) for source in rest for example in source.examples)
    assert [len(source.examples) for source in rest] == [190, 54, 9]
    again, _ = DevSet.hold_out(sources, 30, seed=0)
    assert again == dev
    assert DevSet.hold_out(sources, 30, seed=1)[0] != dev
    with pytest.raises(ValueError, match="set dev_every to none"):
        DevSet.hold_out(sources[2:], 30, seed=0)


def test_ndcg_by_hand() -> None:
    dev = DevSet(("q0", "q1", "q2"), ("a0", "a1", "a2"))
    answers = {"a0": [1, 0, 0], "a1": [0, 1, 0], "a2": [0, 0, 1]}
    # q0 finds its answer first, q1 second, q2 sees no difference between any: third.
    embedder = Fixed(answers | {"q0": [1, 0, 0], "q1": [1, 0.5, 0], "q2": [1, 1, 1]})
    expected = (1 + 1 / math.log2(3) + 1 / math.log2(4)) / 3
    assert dev.ndcg(embedder, max_length=16) == pytest.approx(expected)
    assert embedder.lengths == [16, 16]
    assert embedder.max_length == 99


def test_the_eleventh_counts_nothing() -> None:
    names = [f"a{i}" for i in range(12)]
    dev = DevSet(tuple(f"q{i}" for i in range(12)), tuple(names))
    same = {name: [1.0] for name in (*dev.queries, *names)}
    assert dev.ndcg(Fixed(same), 16) == 0.0
