"""The overlap filter against plain sets of word tuples."""

import random
import re

import pytest

from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.tasks import ClassificationData, RetrievalData, StsData, TaskEntry


def runs(text, length):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def numbered(first, last):
    return " ".join(f"w{number}" for number in range(first, last))


@pytest.mark.parametrize(("length", "alphabet"), [(1, 200), (3, 10), (10, 2)])
def test_it_equals_sets_of_word_tuples(length, alphabet):
    generator = random.Random(length)

    def text(words):
        return " ".join(f"w{generator.randrange(alphabet)}" for _ in range(generator.randrange(words)))

    evaluation = [text(14) for _ in range(40)]
    known = set().union(*(runs(item, length) for item in evaluation))
    overlap = OverlapFilter(evaluation, length)
    assert len(overlap) == len(known)
    examples = [Example(text(6), text(40), tuple(text(20) for _ in range(index % 3))) for index in range(300)]
    expected = [known.isdisjoint(set().union(*(runs(item, length) for item in e.texts))) for e in examples]
    assert overlap.allowed(examples).tolist() == expected
    assert [overlap.allows(example) for example in examples] == expected
    assert 0 < sum(expected) < len(expected)


def test_ten_words_are_too_many_and_nine_are_not():
    overlap = OverlapFilter([numbered(0, 30)])
    assert not overlap.allows(Example("q", f"new {numbered(5, 15)} new"))
    assert overlap.allows(Example("q", f"new {numbered(5, 14)} new {numbered(15, 24)}"))


def test_case_and_punctuation_do_not_matter_and_negatives_count():
    overlap = OverlapFilter([numbered(0, 10)])
    shouted = numbered(0, 10).upper().replace(" ", ", ")
    assert not overlap.allows(Example("q", "p", ("fine", shouted)))


def test_runs_do_not_reach_from_one_text_into_the_next():
    overlap = OverlapFilter([numbered(0, 5), numbered(5, 10)])
    assert len(overlap) == 0
    assert overlap.allows(Example(numbered(0, 5), numbered(5, 10)))
    whole = OverlapFilter([numbered(0, 10)])
    assert whole.allows(Example(numbered(0, 5), numbered(5, 10)))


def test_no_texts_and_no_examples():
    overlap = OverlapFilter([])
    assert overlap.allows(Example("", ""))
    assert overlap.allowed([]).tolist() == []


def test_training_splits_may_be_trained_on_and_the_rest_may_not():
    def entry(data):
        return TaskEntry("t", "retrieval", "here", "none", lambda: data)

    texts = {name: " ".join(f"{name}{number}" for number in range(10)) for name in "abcdefgh"}
    overlap = OverlapFilter.from_tasks(
        [
            entry(RetrievalData({"d": (texts["a"], texts["b"])}, {"q": texts["c"]}, {"q": {"d": 1}})),
            entry(StsData([(texts["d"], texts["e"], 1.0, "all")])),
            entry(ClassificationData([(texts["f"], "x")], [(texts["g"], "y")])),
        ]
    )
    verdicts = {name: overlap.allows(Example("q", text)) for name, text in texts.items()}
    assert {name for name, allowed in verdicts.items() if allowed} == {"f", "h"}


def test_keep_counts_drops_by_source():
    overlap = OverlapFilter([numbered(0, 10)])
    source = ExampleSource("s", "o", "l", [Example("q", numbered(0, 12)), Example("q", "p")], in_batch=False)
    kept = overlap.keep(source)
    assert kept.examples == [Example("q", "p")]
    assert not kept.in_batch
    assert overlap.dropped == {"s": 1}
