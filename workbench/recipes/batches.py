"""Which examples step t trains on: a function of the sources, the seed and t, and of nothing else.

Every process can therefore compute every batch, and a resumed run needs no reader's position. One source
is drawn per step, with probability proportional to the square root of its size, so that large sources
lead without drowning the small ones. Each source is walked in its own shuffled order, and shuffled anew
for each epoch.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workbench.catalog.example import Example, ExampleSource

logger = logging.getLogger("bitembed")

SOURCE_STREAM, ORDER_STREAM, NEGATIVES_STREAM = 0, 1, 2  # independent random streams of one seed
LOOK_AHEAD = 4  # batches' worth of examples that may be put off to keep equal texts apart


@dataclass(frozen=True)
class ExampleBatch:
    """B examples of one source; `indices` are their places in that source."""

    source: str
    in_batch: bool
    indices: tuple[int, ...]
    queries: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    """K hard negatives for each query, K = 0 where the source has none."""

    def __len__(self) -> int:
        return len(self.indices)

    def part(self, number: int, parts: int) -> "ExampleBatch":
        """The `number`-th of `parts` equal, contiguous parts."""
        size = len(self) // parts
        here = slice(number * size, (number + 1) * size)
        return ExampleBatch(
            self.source,
            self.in_batch,
            self.indices[here],
            self.queries[here],
            self.positives[here],
            self.negatives[here],
        )


@dataclass(frozen=True)
class _Walk:
    """Examples of one source that can stand in one batch: all have hard negatives, or none needs them."""

    source: ExampleSource
    members: tuple[int, ...]
    negatives: int


class BatchSchedule:
    """The batches of a run: `schedule.batch(step)`, steps counted from 0.

    Of a source whose examples partly have hard negatives, those with and those without are walked
    separately, since a batch has the same number K of them for every query. An example with more than K
    gets a random choice of K; one with fewer repeats its own. An epoch is `size // batch_size` batches;
    the few examples left out change with the order. Where in-batch negatives are used, examples with an
    equal query or positive are kept out of each other's batch while the source allows it, since they
    would be each other's false negatives.

    Args:
        sources: what to draw from. A source smaller than one batch, and one that may not use in-batch
            negatives without having hard ones, is left out with a warning.
        batch_size: B, over all processes and micro-batches.
        hard_negatives: K, at most; 0 ignores those that the examples have.

    Raises:
        ValueError: no source is left.
    """

    def __init__(
        self, sources: Sequence[ExampleSource], batch_size: int, seed: int, hard_negatives: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.sources = tuple(sources)
        self.walks = [walk for source in sources for walk in _walks(source, batch_size, hard_negatives)]
        if not self.walks:
            sizes = (
                ", ".join(f"{source.name} has {len(source.examples)}" for source in sources) or "none given"
            )
            raise ValueError(
                f"no source of examples can fill a batch of {batch_size} ({sizes}): "
                "lower batch_size or give more examples"
            )
        weights = np.sqrt([len(walk.members) for walk in self.walks])
        self.borders = np.cumsum(weights) / weights.sum()
        self._order = lru_cache(maxsize=2 * len(self.walks))(self._shuffled)

    def batch(self, step: int) -> ExampleBatch:
        """The batch of step `step`, the same on every process."""
        draws = np.random.default_rng([self.seed, SOURCE_STREAM]).random(step + 1)
        chosen = np.searchsorted(self.borders[:-1], draws, side="right")
        number = int(chosen[step])
        visit = int(np.count_nonzero(chosen[:step] == number))
        walk = self.walks[number]
        epoch, turn = divmod(visit, len(walk.members) // self.batch_size)
        order = self._order(number, epoch)
        indices = order[turn * self.batch_size : (turn + 1) * self.batch_size]
        examples = [walk.source.examples[index] for index in indices]
        generator = np.random.default_rng([self.seed, NEGATIVES_STREAM, step])
        return ExampleBatch(
            source=walk.source.name,
            in_batch=walk.source.in_batch,
            indices=tuple(indices),
            queries=tuple(example.query for example in examples),
            positives=tuple(example.positive for example in examples),
            negatives=tuple(_choose(example.negatives, walk.negatives, generator) for example in examples),
        )

    def _shuffled(self, number: int, epoch: int) -> list[int]:
        walk = self.walks[number]
        generator = np.random.default_rng([self.seed, ORDER_STREAM, number, epoch])
        order = [walk.members[place] for place in generator.permutation(len(walk.members))]
        if not walk.source.in_batch:
            return order
        return _keep_equal_texts_apart(order, walk.source.examples, self.batch_size)


def _walks(source: ExampleSource, batch_size: int, hard_negatives: int) -> list[_Walk]:
    having: list[int] = []
    lacking: list[int] = []
    for index, example in enumerate(source.examples):
        (having if hard_negatives and example.negatives else lacking).append(index)
    walks = []
    for members, negatives in ((having, hard_negatives), (lacking, 0)):
        if not members:
            continue
        if not source.in_batch and not negatives:
            logger.warning(
                "%s: %d examples left out: no hard negatives, and in-batch negatives are not allowed here",
                source.name,
                len(members),
            )
        elif len(members) < batch_size:
            logger.warning(
                "%s: %d examples %s hard negatives left out: fewer than a batch of %d",
                source.name,
                len(members),
                "with" if negatives else "without",
                batch_size,
            )
        else:
            walks.append(_Walk(source, tuple(members), negatives))
    return walks


def _keep_equal_texts_apart(order: list[int], examples: Sequence[Example], batch_size: int) -> list[int]:
    """`order` cut into batches in each of which no query and no positive occurs twice, as far as that
    goes."""
    fresh = deque(order)
    put_off: deque[int] = deque()
    arranged: list[int] = []
    for _ in range(len(order) // batch_size):
        batch: list[int] = []
        texts: set[str] = set()
        clashing: deque[int] = deque()
        while len(batch) < batch_size and (put_off or fresh) and len(clashing) < LOOK_AHEAD * batch_size:
            index = put_off.popleft() if put_off else fresh.popleft()
            own = {examples[index].query, examples[index].positive}
            if own & texts:
                clashing.append(index)
            else:
                texts |= own
                batch.append(index)
        while len(batch) < batch_size:
            batch.append(clashing.popleft())
        put_off = clashing + put_off
        arranged += batch
    return arranged


def _choose(negatives: tuple[str, ...], count: int, generator: np.random.Generator) -> tuple[str, ...]:
    if len(negatives) > count:
        return tuple(negatives[place] for place in generator.permutation(len(negatives))[:count])
    return tuple(negatives[place % len(negatives)] for place in range(count))
