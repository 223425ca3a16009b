"""Keep evaluation text out of training: no training example may share a run of ten words with it."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.catalog.example import Example, ExampleSource

if TYPE_CHECKING:
    from workbench.catalog.tasks import TaskEntry

logger = logging.getLogger("bitembed")

RUN_LENGTH = 10
TEXTS_AT_ONCE = 20_000
UNKNOWN_WORD = 0


class OverlapFilter:
    """The set of all runs of `run_length` words of the given texts, case and punctuation ignored.

    A run is kept as one 64-bit number, sum_k value(word_k) m^k mod 2^64 with random values and an odd m, so
    building and asking are array operations; two different runs share a number with probability near 2^-64.
    `dropped` counts what `keep` has removed, by source.
    """

    def __init__(self, texts: Iterable[str], run_length: int = RUN_LENGTH) -> None:
        self.run_length = run_length
        self.dropped: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        text_list = list(texts)
        for text in text_list:
            for word in _words(text):
                self._numbers.setdefault(word, len(self._numbers) + 1)
        generator = np.random.default_rng(0)
        top = np.iinfo(np.uint64).max
        self._values = generator.integers(top, size=len(self._numbers) + 1, dtype=np.uint64, endpoint=True)
        multiplier = generator.integers(top, dtype=np.uint64) | np.uint64(1)
        self._powers = np.cumprod(np.full(run_length, multiplier), dtype=np.uint64)
        ordered = np.sort(self._hash_runs(text_list)[0])
        self._runs = ordered[np.diff(ordered, prepend=~ordered[:1]) != 0]

    @classmethod
    def from_tasks(cls, tasks: Iterable["TaskEntry"], run_length: int = RUN_LENGTH) -> "OverlapFilter":
        """Over what the tasks measure with: queries, documents, sentences, texts; not training splits."""
        from workbench.catalog.task_data import evaluation_texts

        return cls((text for task in tasks for text in evaluation_texts(task.load())), run_length)

    def __len__(self) -> int:
        return len(self._runs)

    def allows(self, example: Example) -> bool:
        """Whether none of the example's texts shares a run of words with an evaluation text."""
        return bool(self.allowed([example])[0])

    def allowed(self, examples: Sequence[Example]) -> NDArray[np.bool_]:
        """`allows` for many examples at once; a text that several of them share is looked at once."""
        texts = list(dict.fromkeys(text for example in examples for text in example.texts))
        overlapping: set[str] = set()
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            block = texts[start : start + TEXTS_AT_ONCE]
            hashes, owners = self._hash_runs(block)
            overlapping.update(block[owner] for owner in owners[self._known(hashes)].tolist())
        return np.array([overlapping.isdisjoint(example.texts) for example in examples], dtype=bool)

    def keep(self, source: ExampleSource) -> ExampleSource:
        """The source without the examples that overlap, which are counted in `dropped` and logged."""
        verdict = self.allowed(source.examples)
        lost = len(verdict) - int(verdict.sum())
        if lost:
            self.dropped[source.name] += lost
            logger.info("%s: dropped %d examples that overlap the evaluation text", source.name, lost)
        kept = [example for example, good in zip(source.examples, verdict, strict=True) if good]
        return replace(source, examples=kept)

    def _known(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which numbers are among the kept ones, by binary search."""
        if not len(self._runs):
            return np.zeros(len(hashes), dtype=bool)
        places = np.searchsorted(self._runs, hashes).clip(max=len(self._runs) - 1)
        return np.asarray(self._runs[places] == hashes)

    def _hash_runs(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Numbers of all runs of the texts, and for each run which text it is from."""
        numbers: list[int] = []
        lengths = []
        known = self._numbers
        for text in texts:
            words = _words(text)
            lengths.append(len(words))
            numbers.extend(known.get(word, UNKNOWN_WORD) for word in words)
        count = len(numbers) - self.run_length + 1
        if count < 1:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        values = self._values[np.array(numbers)]
        hashes = np.zeros(count, dtype=np.uint64)
        for position, power in enumerate(self._powers):
            hashes += values[position : position + count] * power
        owners = np.repeat(np.arange(len(texts)), lengths)
        inside = owners[:count] == owners[self.run_length - 1 :]
        return hashes[inside], owners[:count][inside]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
