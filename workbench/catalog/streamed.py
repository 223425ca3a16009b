"""Training examples that stay on disk, or on the hub, and are read a block at a time."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.shards import Block, blocks_of
from workbench.catalog.user_examples import (
    NEGATIVE_COLUMN,
    POSITIVE_COLUMNS,
    QUERY_COLUMNS,
    as_list,
    first_column,
)

if TYPE_CHECKING:
    from workbench.catalog.overlap import OverlapFilter

BLOCKS_SAMPLED = 8


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; the texts of all columns of `negatives` are an example's negatives."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class StreamedSource:
    """Examples of one origin, of which only blocks that are asked for are in memory.

    Its examples are numbered in the order of its blocks. Those with an empty text, those that overlap the evaluation text
    of `exclude`, and those with a text of `held_out` are passed over when they are read. `in_batch` and `weight` are as in
    `ExampleSource`.
    """

    name: str
    blocks: tuple[Block, ...]
    columns: Columns
    in_batch: bool = True
    weight: float | None = None
    exclude: "OverlapFilter | None" = None
    held_out: frozenset[str] = frozenset()

    @classmethod
    def open(cls, name: str, data: str, kind: str, **settings: Any) -> Self:
        """Files of rows, or a hub data set, as `blocks_of` takes them.

        Args:
            kind: "triplets" if there must be negatives.
            settings: `in_batch`, `weight`, and the columns `query`, `positive` and `negatives`; by default those with the
                names that `read_hub` looks for.

        Raises:
            FileNotFoundError, PackageUnavailable: the data cannot be had.
            ValueError: it has no rows, lacks a column, or is damaged.
        """
        blocks = blocks_of(data)
        present = blocks[0].columns()
        columns = _columns(present, data, settings)
        if kind == "triplets" and not columns.negatives:
            raise ValueError(
                f"{data} has no negatives ({', '.join(present)}), which stage 0 and stage 2 learn from; they are "
                "mined for data in memory only"
            )
        if "in_batch" in present and "in_batch" not in settings:
            raise ValueError(
                f'{data} has a column in_batch, which is not read here: say "in_batch": true or false in a mixture file'
            )
        return cls(name, blocks, columns, settings.get("in_batch", True), settings.get("weight"))

    @cached_property
    def size(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def fingerprint(self) -> str:
        """A hash of the files' names, wherever they lie, their blocks and the columns; texts are not read for it."""
        digest = xxhash.xxh3_128(repr(self.columns).encode())
        for block in self.blocks:
            digest.update(repr(replace(block, file=PurePath(block.file).name)).encode())
        return digest.hexdigest()

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """The number of the first example of each block."""
        rows = np.array([block.rows for block in self.blocks], dtype=np.int64)
        return np.asarray(rows.cumsum() - rows)

    def read(self, block: int, negatives: bool) -> list[tuple[int, Example]]:
        """The examples of one block with their numbers; with `negatives`, those that have some, otherwise without any."""
        return self._kept(self._read(block, negatives))

    def sample(self, count: int, generator: np.random.Generator) -> list[Example]:
        """Up to `count` examples drawn at random from several blocks, none twice and without negatives."""
        found: list[Example] = []
        order = generator.permutation(len(self.blocks)).tolist()
        share = -(-count // min(BLOCKS_SAMPLED, len(order)))
        for block in order:
            rows = self._read(block, negatives=False)
            chosen = generator.permutation(len(rows))[: min(share, count - len(found))]
            found += [example for _, example in self._kept([rows[place] for place in chosen])]
            if len(found) == count:
                break
        return found

    def without(self, texts: Set[str]) -> Self:
        """The source without the examples that have one of `texts`."""
        return replace(self, held_out=self.held_out | texts)

    def limited(self, limit: int, seed: int) -> Self:
        """Blocks chosen at random, as many as it takes for `limit` examples."""
        order = np.random.default_rng([seed, self.size]).permutation(len(self.blocks)).tolist()
        before = np.cumsum([0, *(self.blocks[block].rows for block in order)])
        return replace(
            self, blocks=tuple(self.blocks[b] for b, n in zip(order, before, strict=False) if n < limit)
        )

    def _read(self, block: int, negatives: bool) -> list[tuple[int, Example]]:
        """The examples of a block without empty texts."""
        columns = self.columns
        wanted = [columns.query, columns.positive, *(columns.negatives if negatives else ())]
        examples = []
        for number, row in enumerate(self.blocks[block].read(wanted), start=int(self.firsts[block])):
            place = f"{self.blocks[block].file}, example {number} of {self.name}"
            query, positive = (_text(row[name], name, place) for name in (columns.query, columns.positive))
            texts = [_text(text, name, place) for name in wanted[2:] for text in as_list(row[name])]
            hard = tuple(text for text in texts if text)
            if query and positive and (hard or not negatives):
                examples.append((number, Example(query, positive, hard)))
        return examples

    def _kept(self, rows: list[tuple[int, Example]]) -> list[tuple[int, Example]]:
        if self.exclude is not None:
            verdict = self.exclude.allowed([example for _, example in rows])
            rows = [row for row, good in zip(rows, verdict, strict=True) if good]
        if self.held_out:
            rows = [row for row in rows if self.held_out.isdisjoint(row[1].texts)]
        return rows


Source = ExampleSource | StreamedSource


def _columns(present: list[str], data: str, named: Mapping[str, Any]) -> Columns:
    query = named.get("query") or first_column(QUERY_COLUMNS, present, data)
    positive = named.get("positive") or first_column(POSITIVE_COLUMNS, present, data)
    negatives = named.get("negatives")
    if negatives is None:
        negatives = [name for name in present if NEGATIVE_COLUMN.fullmatch(name)]
    columns = Columns(query, positive, tuple(as_list(negatives)))
    for name in (columns.query, columns.positive, *columns.negatives):
        if name not in present:
            raise ValueError(f"{data} has no column {name!r}; it has {', '.join(present)}")
    return columns


def _text(value: object, column: str, place: str) -> str:
    """A text, "" for one that is missing or blank."""
    if not isinstance(value, str | None):
        raise ValueError(f"{place}: `{column}` must be a text, got {type(value).__name__}")
    return value if value and value.strip() else ""
