"""Changed copies of sentences: what may change, that it does, and always in the same way."""

import random

import pytest

from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.sources.edits import edited, replaced, shortened, spliced
from workbench.catalog.sources.wordnet import relatives

RELATIVES = {"guitar": ("banjo", "piano"), "plays": ("hears",), "old": ("new",)}
TEXT = "An old man plays his guitar at home, and The Old Guitars play on."


def test_one_or_two_whole_words_in_small_letters_are_replaced() -> None:
    seen = set()
    for seed in range(200):
        words = replaced(TEXT, RELATIVES, random.Random(seed)).split()
        assert len(words) == len(TEXT.split())
        changed = {(a, b) for a, b in zip(TEXT.split(), words, strict=True) if a != b}
        assert 1 <= len(changed) <= 2
        seen |= changed
    assert seen == {("guitar", "banjo"), ("guitar", "piano"), ("plays", "hears"), ("old", "new")}
    assert replaced("Nothing of it is known.", RELATIVES, random.Random(0)) == "Nothing of it is known."


def test_a_run_of_words_is_left_out() -> None:
    words = TEXT.split()
    for seed in range(50):
        rest = shortened(TEXT, random.Random(seed)).split()
        lost = len(words) - len(rest)
        assert 1 <= lost <= len(words) // 3
        assert any(words[:i] + words[i + lost :] == rest for i in range(len(words)))
    assert shortened("only four words here", random.Random(0)) == "only four words here"


def test_the_end_is_that_of_another_sentence() -> None:
    other = "Some dogs were barking at the new neighbours all night."
    for seed in range(50):
        words = spliced(TEXT, other, random.Random(seed)).split()
        cut = next(
            i
            for i in range(len(words))
            if words[:i] == TEXT.split()[:i] and other.endswith(" ".join(words[i:]))
        )
        assert 0.25 * len(TEXT.split()) < cut < 0.75 * len(TEXT.split())
        assert len(words) > cut
    assert spliced(TEXT, "Too short.", random.Random(0)) == TEXT


def test_a_text_has_the_same_copy_each_time_and_never_itself() -> None:
    texts = [f"An old man plays tune number {i} on his guitar at home" for i in range(100)]
    pairs = list(edited(texts, RELATIVES))
    assert pairs == list(edited(texts, RELATIVES))
    assert all(pair.query != pair.positive for pair in pairs)
    assert [pair.query for pair in pairs] == [
        text for text in texts if text in {pair.query for pair in pairs}
    ]
    assert len(pairs) > 85  # some endings are those that the sentence has
    other_seed = {pair.query: pair.positive for pair in edited(texts, RELATIVES, seed=1)}
    assert sum(other_seed.get(pair.query) == pair.positive for pair in pairs) < 50


def test_relatives_of_words() -> None:
    try:
        words = relatives()
    except PackageUnavailable as reason:
        pytest.skip(f"nothing in the cache and not online: {reason}")
    assert {"banjo", "piano"} <= set(words["guitar"])
    assert {"unhappy"} <= set(words["happy"])
    assert {"yellow", "green"} <= set(words["red"])
    assert all(word not in others for word, others in words.items())
    assert all(other.isalpha() and other.islower() for others in words.values() for other in others)
