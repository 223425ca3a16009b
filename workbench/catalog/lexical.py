"""BM25 over a few ten thousand texts, to find hard negatives that share words with the query."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from workbench.catalog.example import Example
from workbench.catalog.text import fold

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can did do does for from has have how in is it its of on or that the this "
        "to was were what when where which who with",
    )
)
K1, B = 1.2, 0.75
LARGEST_DOCUMENT_SHARE = 0.2
QUERIES_AT_ONCE = 512


def terms(text: str) -> list[str]:
    """Lower-case words without stop words, cut to seven letters as a stemmer would roughly do."""
    return [word[:7] for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS]


class LexicalIndex:
    """Okapi BM25 as one sparse matrix of term weights, without the terms of over a fifth of the texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(terms(text)) for text in texts]
        self.vocabulary: dict[str, int] = {}
        for document in counts:
            for term in document:
                self.vocabulary.setdefault(term, len(self.vocabulary))
        lengths = np.array([sum(document.values()) or 1 for document in counts], dtype=np.float32)
        rows = np.repeat(np.arange(len(counts)), [len(document) for document in counts])
        columns = np.array(
            [self.vocabulary[term] for document in counts for term in document], dtype=np.int64
        )
        found = np.array([count for document in counts for count in document.values()], dtype=np.float32)
        frequency = np.bincount(columns, minlength=len(self.vocabulary))
        idf = np.log1p((len(counts) - frequency + 0.5) / (frequency + 0.5))
        idf[frequency > max(50, LARGEST_DOCUMENT_SHARE * len(counts))] = 0.0
        saturation = found + K1 * (1 - B + B * lengths[rows] / lengths.mean())
        weights = idf[columns] * found * (K1 + 1) / saturation
        self.weights_VN = sparse.csr_array(
            (weights.astype(np.float32), (columns, rows)), shape=(len(self.vocabulary), len(counts))
        )

    def nearest(self, queries: Sequence[str], top: int) -> Iterator[NDArray[np.int64]]:
        """For each query up to `top` text numbers that share a term with it, best first, ties by number."""
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            block = queries[start : start + QUERIES_AT_ONCE]
            words = [
                sorted({self.vocabulary[t] for t in terms(text) if t in self.vocabulary}) for text in block
            ]
            rows = np.repeat(np.arange(len(block)), [len(numbers) for numbers in words])
            columns = np.array([number for numbers in words for number in numbers], dtype=np.int64)
            asked = sparse.csr_array(
                (np.ones(len(rows), dtype=np.float32), (rows, columns)),
                shape=(len(block), len(self.vocabulary)),
            )
            scores = (asked @ self.weights_VN).tocsr()
            for row in range(len(block)):
                part = slice(scores.indptr[row], scores.indptr[row + 1])
                numbers, values = scores.indices[part], scores.data[part]
                if len(values) > top:
                    best = np.argpartition(-values, top)[:top]
                    numbers, values = numbers[best], values[best]
                order = np.lexsort((numbers, -values))
                yield numbers[order][values[order] > 0].astype(np.int64)


def mined_triplets(
    queries: Sequence[str], positives: Sequence[str], groups: Sequence[str] | None = None, negatives: int = 5
) -> Iterator[Example]:
    """Pairs with up to `negatives` hard negatives from the other positives, by BM25.

    The two best are skipped, since they are often right answers that nobody marked. Texts of the same group
    as the positive, or equal to it but for punctuation, are never negatives.
    """
    folded = [fold(text) for text in positives]
    for own, near in enumerate(LexicalIndex(positives).nearest(queries, 30)):
        others = [
            other
            for other in near.tolist()
            if other != own and folded[other] != folded[own] and (not groups or groups[other] != groups[own])
        ]
        if len(others) > 2:
            chosen = tuple(positives[other] for other in others[2 : 2 + negatives])
            yield Example(queries[own], positives[own], chosen)
