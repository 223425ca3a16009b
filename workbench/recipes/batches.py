"""Which examples step t trains on: a function of the sources, the seed and t, and of nothing else.

Every process can therefore compute every batch, and a resumed run needs no reader's position. One source
is drawn per step, with probability proportional to its weight; without weights, to the square root of its size, so that
large sources lead without drowning the small ones. Each source is walked in its own shuffled order, and shuffled anew
for each epoch (`walks` in memory, `streams` from shards).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.catalog.streamed import Source, StreamedSource
from workbench.recipes.streams import StreamedWalk
from workbench.recipes.walks import MemoryWalk, Walk

logger = logging.getLogger("bitembed")

SOURCE_STREAM, NEGATIVES_STREAM = 0, 2  # independent random streams of one seed


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
        self, sources: Sequence[Source], batch_size: int, seed: int, hard_negatives: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.sources = tuple(sources)
        self.walks = list(_walks(sources, batch_size, seed, hard_negatives))
        if not self.walks:
            sizes = ", ".join(f"{source.name} has {source.size}" for source in sources) or "none given"
            raise ValueError(
                f"no source of examples can fill a batch of {batch_size} ({sizes}): "
                "lower batch_size or give more examples"
            )
        weights = _weights(self.walks)
        self.borders = np.cumsum(weights) / weights.sum()

    @property
    def data(self) -> list[dict[str, Any]]:
        """What the batches depend on beside the seed, as a run keeps it."""
        return [
            {
                "name": source.name,
                "examples": source.size,
                "weight": source.weight,
                "in_batch": source.in_batch,
                "fingerprint": source.fingerprint,
            }
            for source in self.sources
        ]

    def batch(self, step: int) -> ExampleBatch:
        """The batch of step `step`, the same on every process."""
        draws = np.random.default_rng([self.seed, SOURCE_STREAM]).random(step + 1)
        chosen = np.searchsorted(self.borders[:-1], draws, side="right")
        number = int(chosen[step])
        walk = self.walks[number]
        indices, examples = zip(*walk.batch(int(np.count_nonzero(chosen[:step] == number))), strict=True)
        generator = np.random.default_rng([self.seed, NEGATIVES_STREAM, step])
        return ExampleBatch(
            source=walk.source.name,
            in_batch=walk.source.in_batch,
            indices=indices,
            queries=tuple(example.query for example in examples),
            positives=tuple(example.positive for example in examples),
            negatives=tuple(_choose(example.negatives, walk.negatives, generator) for example in examples),
        )


def _walks(sources: Sequence[Source], batch_size: int, seed: int, hard_negatives: int) -> Iterator[Walk]:
    number = 0
    for source in sources:
        for members, negatives in _parts(source, hard_negatives):
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
                if isinstance(source, StreamedSource):
                    yield StreamedWalk(source, negatives, batch_size, seed, number)
                else:
                    yield MemoryWalk(source, members, negatives, batch_size, seed, number)
                number += 1


def _parts(source: Source, hard_negatives: int) -> list[tuple[Sequence[int], int]]:
    """The examples that can stand in one batch, and how many hard negatives each gets there."""
    if isinstance(source, StreamedSource):
        return [(range(source.size), hard_negatives if source.columns.negatives else 0)]
    having: list[int] = []
    lacking: list[int] = []
    for index, example in enumerate(source.examples):
        (having if hard_negatives and example.negatives else lacking).append(index)
    return [(having, hard_negatives), (lacking, 0)]


def _weights(walks: Sequence[Walk]) -> NDArray[np.float64]:
    """How often each walk is drawn, relative to the others; the walks of a source share its weight.

    Raises:
        ValueError: only some of the sources have a weight.
    """
    roots = np.sqrt([walk.size for walk in walks])
    if all(walk.source.weight is None for walk in walks):
        return roots
    unweighted = {walk.source.name for walk in walks if walk.source.weight is None}
    if unweighted:
        raise ValueError(
            f"give every source a weight in the mixture, or none: {', '.join(sorted(unweighted))} has none"
        )
    names = np.array([walk.source.name for walk in walks])
    shares = [root / roots[names == name].sum() for name, root in zip(names, roots, strict=True)]
    return np.array([walk.source.weight for walk in walks], dtype=float) * shares


def _choose(negatives: tuple[str, ...], count: int, generator: np.random.Generator) -> tuple[str, ...]:
    if len(negatives) > count:
        return tuple(negatives[place] for place in generator.permutation(len(negatives))[:count])
    return tuple(negatives[place % len(negatives)] for place in range(count))
