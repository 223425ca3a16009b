"""How fast an embedder encodes text here: real tokens, several lengths, the median of repeats."""

import statistics
import time
from typing import NamedTuple

from bitembed_core import BitEmbedder

SENTENCE = (
    "The storage of an embedding is measured in bytes, and every byte that a vector does not need is "
    "read, moved and paid for once per query. "
)


class Timing(NamedTuple):
    """The median run at one length; `spread` is (slowest - fastest) / median over the repeats."""

    tokens_per_text: int
    texts: int
    texts_per_second: float
    tokens_per_second: float
    spread: float

    @property
    def ms_per_text(self) -> float:
        """Milliseconds for one text, its share of a batch."""
        return 1000 / self.texts_per_second


class Speed(NamedTuple):
    """Timings at each length: of texts in batches, and of one text alone, as a query is encoded."""

    together: list[Timing]
    alone: list[Timing]


def measure_speed(
    embedder: BitEmbedder, lengths: tuple[int, ...] = (16, 64, 256), batch_size: int = 32, repeats: int = 5
) -> Speed:
    """`time_encoding` of full batches, and of single texts."""
    together = time_encoding(embedder, lengths, batch_size, repeats=repeats)
    alone = time_encoding(embedder, lengths, batch_size=1, batches=1, repeats=repeats)
    return Speed(together, alone)


def time_encoding(
    embedder: BitEmbedder,
    lengths: tuple[int, ...] = (16, 64, 256),
    batch_size: int = 32,
    batches: int = 2,
    repeats: int = 5,
) -> list[Timing]:
    """Time `embedder.encode`, tokenisation included, on `batches` full batches of equally long texts.

    Lengths (tokens per text) that the model cannot read are left out; the tokens counted are those that enter
    the model, special ones included and padding not. One run before the repeats is not counted.
    """
    timings = []
    for length in [length for length in lengths if length <= embedder.max_length] or [embedder.max_length]:
        texts = texts_of_length(embedder, length, batch_size * batches)
        tokens = int(embedder.tokenize(texts)["attention_mask"].sum())
        seconds = []
        for _ in range(1 + repeats):
            started = time.perf_counter()
            embedder.encode(texts, prompt="", batch_size=batch_size, show_progress_bar=False)
            seconds.append(time.perf_counter() - started)
        counted = seconds[1:]
        median = statistics.median(counted)
        timings.append(
            Timing(
                tokens_per_text=tokens // len(texts),
                texts=len(texts),
                texts_per_second=len(texts) / median,
                tokens_per_second=tokens / median,
                spread=(max(counted) - min(counted)) / median,
            )
        )
    return timings


def texts_of_length(embedder: BitEmbedder, length: int, count: int) -> list[str]:
    """`count` different texts of `length` tokens or one or two less: English cut to size."""
    prose = SENTENCE * (1 + length // 4)
    low, high = 1, len(prose)
    while low < high:
        middle = (low + high + 1) // 2
        batch = embedder.tokenize([f"{count} {prose[:middle]}"])
        fits = int(batch["attention_mask"].sum()) < length
        low, high = (middle, high) if fits else (low, middle - 1)
    return [f"{number} {prose[:low]}" for number in range(count)]
