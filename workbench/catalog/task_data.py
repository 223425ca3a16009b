"""The four shapes of evaluation data, their content hash, and smaller versions of them."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TypeVar

from workbench.catalog.text import draw

Row = TypeVar("Row", bound=tuple[object, ...])


@dataclass(frozen=True)
class RetrievalData:
    """`corpus`: id -> (title, text); `queries`: id -> text; `qrels`: query id -> document id -> relevance."""

    corpus: dict[str, tuple[str, str]]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


@dataclass(frozen=True)
class StsData:
    """Rows (sentence, sentence, human score, subset)."""

    rows: list[tuple[str, str, float, str]]


@dataclass(frozen=True)
class ClassificationData:
    """Rows (text, label); a classifier is fitted on `train` and measured on `test`."""

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]


@dataclass(frozen=True)
class ClusteringData:
    texts: list[str]
    labels: list[str]


TaskData = RetrievalData | StsData | ClassificationData | ClusteringData


def fingerprint(data: TaskData) -> str:
    """sha256 of the data as canonical JSON: equal for equal content, whatever the order of ids."""
    content = json.dumps(asdict(data), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def evaluation_texts(data: TaskData) -> Iterator[str]:
    """Every text that the task measures with: all but the training split of a classification."""
    match data:
        case RetrievalData():
            yield from data.queries.values()
            yield from chain.from_iterable(data.corpus.values())
        case StsData():
            for first, second, _, _ in data.rows:
                yield from (first, second)
        case ClassificationData():
            yield from (text for text, _ in data.test)
        case ClusteringData():
            yield from data.texts


def capped(
    data: TaskData,
    *,
    max_documents: int | None = None,
    max_queries: int | None = None,
    max_pairs: int | None = None,
    max_train: int | None = None,
    max_test: int | None = None,
    max_texts: int | None = None,
    seed: int = 0,
) -> tuple[TaskData, str]:
    """A smaller version of the data, equal for equal seeds, and how it was cut ("" if it was not).

    Retrieval keeps every relevant document of the kept queries, even beyond `max_documents`, and fills up
    with others. Similarity keeps the shares of its subsets, classification and clustering those of their
    labels. A cap that does not concern the data's shape is ignored.
    """
    smaller: TaskData
    match data:
        case RetrievalData():
            smaller = _capped_retrieval(data, max_documents, max_queries, seed)
            parts = [
                _share(len(smaller.queries), len(data.queries), "queries"),
                _share(len(smaller.corpus), len(data.corpus), "documents"),
            ]
        case StsData():
            smaller = StsData(_stratified(data.rows, max_pairs, 3, seed, at_least=2))
            parts = [_share(len(smaller.rows), len(data.rows), "pairs")]
        case ClassificationData():
            smaller = ClassificationData(
                _stratified(data.train, max_train, 1, seed), _stratified(data.test, max_test, 1, seed)
            )
            parts = [
                _share(len(smaller.train), len(data.train), "training texts"),
                _share(len(smaller.test), len(data.test), "test texts"),
            ]
        case ClusteringData():
            rows = _stratified(list(zip(data.texts, data.labels, strict=True)), max_texts, 1, seed)
            smaller = ClusteringData([text for text, _ in rows], [label for _, label in rows])
            parts = [_share(len(smaller.texts), len(data.texts), "texts")]
    return smaller, ", ".join(filter(None, parts))


def _share(kept: int, total: int, noun: str) -> str:
    return f"{kept:,} of {total:,} {noun}" if kept < total else ""


def _capped_retrieval(
    data: RetrievalData, max_documents: int | None, max_queries: int | None, seed: int
) -> RetrievalData:
    asked = _drawn(data.queries, max_queries, "queries", seed)
    qrels = {query: data.qrels[query] for query in asked}
    relevant = {document for judged in qrels.values() for document, score in judged.items() if score > 0}
    others = [document for document in data.corpus if document not in relevant]
    room = None if max_documents is None else max(0, max_documents - len(relevant))
    kept = relevant.union(_drawn(others, room, "documents", seed))
    return RetrievalData(
        corpus={document: content for document, content in data.corpus.items() if document in kept},
        queries={query: data.queries[query] for query in asked},
        qrels={
            query: {document: score for document, score in judged.items() if document in kept}
            for query, judged in qrels.items()
        },
    )


def _drawn(ids: Iterable[str], count: int | None, tag: str, seed: int) -> list[str]:
    return list(ids) if count is None else draw(ids, count, tag, seed)


def _stratified(
    rows: Sequence[Row], count: int | None, column: int, seed: int, at_least: int = 1
) -> list[Row]:
    """`count` rows in their order; every value of `column` keeps its share, and `at_least` so many rows."""
    if count is None or count >= len(rows):
        return list(rows)
    places = defaultdict(list)
    for place, row in enumerate(rows):
        places[row[column]].append(place)
    if count < at_least * len(places):
        raise ValueError(f"a cap of {count} leaves too few rows for some of the {len(places)} groups")
    exact = {label: count * len(found) / len(rows) for label, found in places.items()}
    quota = {label: min(len(places[label]), max(at_least, int(share))) for label, share in exact.items()}
    while sum(quota.values()) > count:
        quota[max(quota, key=lambda label: quota[label])] -= 1
    while sum(quota.values()) < count:
        quota[max(quota, key=lambda label: exact[label] - quota[label])] += 1
    generator = random.Random(seed)
    chosen = [place for label, found in places.items() for place in generator.sample(found, quota[label])]
    return [rows[place] for place in sorted(chosen)]
