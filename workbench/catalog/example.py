"""The unit of training text: a query, the text that answers it, and texts that do not; and sources of it."""

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import xxhash


@dataclass(frozen=True, slots=True)
class Example:
    """A training pair; `negatives` are texts known or mined not to answer the query."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.query, self.positive, *self.negatives)


@dataclass(frozen=True)
class ExampleSource:
    """Examples of one origin, in memory.

    `in_batch` False: another example's positive may answer this query as well, so only an example's own negatives may be
    used. `weight` is the share of batches that come from here, relative to other weights; None leaves it to the sizes.
    """

    name: str
    origin: str
    licence: str
    examples: list[Example]
    in_batch: bool = True
    weight: float | None = None

    @property
    def size(self) -> int:
        return len(self.examples)

    @property
    def fingerprint(self) -> str:
        """A hash of the texts in their order."""
        digest = xxhash.xxh3_128()
        for example in self.examples:
            digest.update("\x1f".join(example.texts).encode(errors="surrogatepass") + b"\x1e")
        return digest.hexdigest()

    def sample(self, count: int, generator: np.random.Generator) -> list[Example]:
        """Up to `count` examples drawn at random, none twice."""
        return [self.examples[index] for index in generator.permutation(self.size)[:count]]

    def without(self, texts: Set[str]) -> Self:
        """The source without the examples that have one of `texts`."""
        return replace(self, examples=[e for e in self.examples if texts.isdisjoint(e.texts)])
