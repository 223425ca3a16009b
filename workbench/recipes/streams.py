"""A walk through a source that is larger than memory, exact to resume anywhere.

Shuffling as streams usually do, through a buffer that is drawn from and refilled, makes a batch depend on everything that
was read before it, and what the buffer held is lost with the process. Here the blocks of an epoch (row groups of Parquet
shards) are shuffled first and then cut into windows of about `WINDOW_ROWS` rows, and the examples of a window are
shuffled among each other. So any batch can be had by reading the blocks of one window, and no others.
"""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workbench.catalog.example import Example
from workbench.catalog.shards import READERS
from workbench.catalog.streamed import StreamedSource
from workbench.recipes.walks import ORDER_STREAM, keep_equal_texts_apart

logger = logging.getLogger("bitembed")

WINDOW_STREAM = 5  # of the run's seed
WINDOW_ROWS = 2**17  # some hundred megabytes of text; two windows of each source are in memory
WINDOW_BATCHES = 4  # at least

Examples = list[tuple[int, Example]]


class Epoch(NamedTuple):
    """Which blocks are read when; a window's first batch follows the last one of the window before."""

    order_G: NDArray[np.int64]  # blocks
    firsts_W: NDArray[np.int64]  # place in the order of each window's first block
    ends_W: NDArray[np.int64]  # batches up to the end of each window


class StreamedWalk:
    """See `Walk`. While a window is used, the next one is read.

    Of each window as many rows as fill whole batches are used, others in other epochs, since its blocks change. Where
    examples are passed over (see `StreamedSource`), others of their window come twice, so that how many batches a window
    has is known without reading it.
    """

    def __init__(
        self, source: StreamedSource, negatives: int, batch_size: int, seed: int, number: int
    ) -> None:
        self.source, self.negatives = source, negatives
        self.batch_size, self.seed, self.number = batch_size, seed, number
        self.window_rows = max(WINDOW_ROWS, WINDOW_BATCHES * batch_size)
        self._rows_G = np.array([block.rows for block in source.blocks], dtype=np.int64)
        self._epoch = lru_cache(maxsize=2)(self._planned)
        self._batches = lru_cache(maxsize=None)(lambda epoch: int(self._epoch(epoch).ends_W[-1]))
        self._windows: dict[tuple[int, int], Future[Examples]] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="window")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="block")

    @property
    def size(self) -> int:
        return self.source.size

    def batch(self, visit: int) -> Examples:
        epoch, turn = 0, visit
        while turn >= self._batches(epoch):
            turn -= self._batches(epoch)
            epoch += 1
        ends_W = self._epoch(epoch).ends_W
        window = int(np.searchsorted(ends_W, turn, side="right"))
        turn -= int(ends_W[window - 1]) if window else 0
        examples = self._window(epoch, window)
        return examples[turn * self.batch_size : (turn + 1) * self.batch_size]

    def _planned(self, epoch: int) -> Epoch:
        generator = np.random.default_rng([self.seed, ORDER_STREAM, self.number, epoch])
        order_G = generator.permutation(len(self._rows_G))
        rows_G = self._rows_G[order_G]
        starts_G = rows_G.cumsum() - rows_G
        firsts_W = np.flatnonzero(np.diff(starts_G // self.window_rows, prepend=-1))
        batches_W = np.add.reduceat(rows_G, firsts_W) // self.batch_size
        return Epoch(order_G, firsts_W, batches_W.cumsum())

    def _window(self, epoch: int, window: int) -> Examples:
        """The examples of a window, and the next window is on its way."""
        is_last = window + 1 == len(self._epoch(epoch).ends_W)
        wanted = [(epoch, window), (epoch + 1, 0) if is_last else (epoch, window + 1)]
        self._windows = {
            key: self._windows.get(key) or self._ahead.submit(self._read, *key) for key in wanted
        }
        return self._windows[epoch, window].result()

    def _read(self, epoch: int, window: int) -> Examples:
        plan = self._epoch(epoch)
        blocks = np.split(plan.order_G, plan.firsts_W[1:])[window].tolist()
        parts = self._readers.map(lambda block: self.source.read(block, self.negatives > 0), blocks)
        found = [row for part in parts for row in part]
        rows = int(self._rows_G[blocks].sum())
        if len(found) < rows:
            logger.info("%s: %d of %d examples passed over", self.source.name, rows - len(found), rows)
        if not found:
            files = ", ".join(sorted({self.source.blocks[block].file for block in blocks})[:3])
            raise ValueError(f"{self.source.name}: no example of {files} can be used; see `StreamedSource`")
        generator = np.random.default_rng([self.seed, WINDOW_STREAM, self.number, epoch, window])
        shuffled = generator.permutation(len(found))
        order: list[int] = np.resize(shuffled, rows // self.batch_size * self.batch_size).tolist()
        if self.source.in_batch:
            order = keep_equal_texts_apart(order, [example for _, example in found], self.batch_size)
        return [found[place] for place in order]
