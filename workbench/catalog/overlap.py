"""Keep evaluation text out of training: no training example may share a run of ten words with it."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from workbench.catalog.example import Example, ExampleSource

if TYPE_CHECKING:
    from workbench.catalog.tasks import TaskEntry

logger = logging.getLogger("bitembed")

RUN_LENGTH = 10
TEXTS_AT_ONCE = 20_000
UNKNOWN_WORD = -1  # it has the last of the values
NO_WORD = r"[^\p{L}\p{N}_]+"
BEGINNING_BITS = 24


class OverlapFilter:
    """The set of all runs of `run_length` words of the given texts, case and punctuation ignored.

    A run is kept as one 64-bit number, sum_k value(word_k) m^k mod 2^64 with random values and an odd m, so
    building and asking are array operations; two different runs share a number with probability near 2^-64.
    `dropped` counts what `keep` has removed, by source.
    """

    def __init__(self, texts: Iterable[str], run_length: int = RUN_LENGTH) -> None:
        self.run_length = run_length
        self.dropped: Counter[str] = Counter()
        blocks = list(_in_blocks(list(texts)))
        words = [_words(block)[0] for block in blocks]
        self._vocabulary = pc.unique(pa.chunked_array(words, pa.string()))
        generator = np.random.default_rng(0)
        top = np.iinfo(np.uint64).max
        self._values = generator.integers(top, size=len(self._vocabulary) + 1, dtype=np.uint64, endpoint=True)
        multiplier = generator.integers(top, dtype=np.uint64) | np.uint64(1)
        self._powers = np.cumprod(np.full(run_length, multiplier), dtype=np.uint64)
        hashes = [self._hash_runs(block)[0] for block in blocks]
        self._runs = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, dtype=np.uint64)
        self._beginnings = np.zeros(2**BEGINNING_BITS, dtype=bool)
        self._beginnings[_beginning(self._runs)] = True

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
        for block in _in_blocks(texts):
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
        """Which numbers are among the kept ones: by their first bits, and where those occur by binary search."""
        known = self._beginnings[_beginning(hashes)]
        likely = hashes[known]
        if len(likely):
            places = np.searchsorted(self._runs, likely).clip(max=len(self._runs) - 1)
            known[known] = self._runs[places] == likely
        return known

    def _hash_runs(self, texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Numbers of all runs of the texts, and for each run which text it is from."""
        words, lengths = _words(texts)
        count = len(words) - self.run_length + 1
        if count < 1:
            return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
        places = pc.fill_null(pc.index_in(words, value_set=self._vocabulary), UNKNOWN_WORD).to_numpy()
        values = self._values[places]
        hashes = np.zeros(count, dtype=np.uint64)
        for position, power in enumerate(self._powers):
            hashes += values[position : position + count] * power
        owners = np.repeat(np.arange(len(texts)), lengths)
        inside = owners[:count] == owners[self.run_length - 1 :]
        return hashes[inside], owners[:count][inside]


def _words(texts: Sequence[str]) -> tuple[pa.Array, NDArray[np.int64]]:
    """The words of all texts one after the other, and how many each text has.

    In Arrow, since data that are streamed are filtered on other threads than the one that trains.
    """
    lower = pc.utf8_lower(pa.array(texts, pa.string()))
    spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(lower, NO_WORD, " "))
    words = pc.split_pattern(spaced, " ")  # [""] where there are none
    lengths = pc.if_else(pc.equal(spaced, ""), 0, pc.list_value_length(words))
    flat = words.flatten()
    return flat.filter(pc.not_equal(flat, "")), lengths.to_numpy()


def _beginning(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return hashes >> np.uint64(64 - BEGINNING_BITS)


def _in_blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        yield texts[start : start + TEXTS_AT_ONCE]
