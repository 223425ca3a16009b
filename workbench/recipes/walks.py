"""In which order the examples of one source come, a batch at each visit: a function of the seed and the visit alone."""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.streamed import Source

ORDER_STREAM = 1  # of the run's seed
LOOK_AHEAD = 4  # batches' worth of examples that may be put off to keep equal texts apart


class Walk(Protocol):
    """Examples of one source that can stand in one batch: all have hard negatives, or none needs them."""

    @property
    def source(self) -> Source: ...

    @property
    def negatives(self) -> int:
        """K, hard negatives that each example gets."""

    @property
    def size(self) -> int:
        """How many examples an epoch has, about."""

    def batch(self, visit: int) -> list[tuple[int, Example]]:
        """The examples of visit `visit`, counted from 0 over all epochs, with their numbers in the source."""


class MemoryWalk:
    """Some members of a source in memory, in an order that is shuffled for each epoch.

    An epoch is `size // batch_size` batches; the few examples left out change with the order.

    Args:
        number: of this walk among those of its run.
    """

    def __init__(
        self,
        source: ExampleSource,
        members: Sequence[int],
        negatives: int,
        batch_size: int,
        seed: int,
        number: int,
    ) -> None:
        self.source, self.members, self.negatives = source, members, negatives
        self.batch_size, self.seed, self.number = batch_size, seed, number
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def size(self) -> int:
        return len(self.members)

    def batch(self, visit: int) -> list[tuple[int, Example]]:
        epoch, turn = divmod(visit, self.size // self.batch_size)
        chosen = self._order(epoch)[turn * self.batch_size : (turn + 1) * self.batch_size]
        return [(index, self.source.examples[index]) for index in chosen]

    def _shuffled(self, epoch: int) -> list[int]:
        generator = np.random.default_rng([self.seed, ORDER_STREAM, self.number, epoch])
        order = [self.members[place] for place in generator.permutation(self.size)]
        if not self.source.in_batch:
            return order
        return keep_equal_texts_apart(order, self.source.examples, self.batch_size)


def keep_equal_texts_apart(order: Sequence[int], examples: Sequence[Example], batch_size: int) -> list[int]:
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
