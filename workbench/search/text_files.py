"""The texts to embed from a user's files, row by row."""

import math
import os
from collections.abc import Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from workbench.catalog.rows import Row, text_field
from workbench.search.sidecar import as_text
from workbench.search.text_source import (
    ID_COLUMNS,
    ROWS_PER_PIECE,
    TITLE_COLUMN,
    Piece,
    TextSource,
    as_source,
)

SCALARS = (str, int, float, Decimal, date, time, timedelta)


class TextRow(NamedTuple):
    """A text to embed; `id` is its row number, from 0, when the source gives none. Metadata has no missing values."""

    id: str
    text: str
    metadata: Mapping[str, Any] = {}


class TextReader:
    """Reads a source forwards; what is skipped is not decoded.

    Raises:
        FileNotFoundError, PackageUnavailable: the source cannot be had.
        ValueError: it has no rows, a file is damaged, or a row that is taken cannot be used (named by file and line): broken
            JSON, no text, an empty one.
    """

    def __init__(self, source: TextSource) -> None:
        self.source, self.position = source, 0
        self._pieces = source.pieces()
        self._piece: Piece | None = None
        self._used = 0
        self._advance()
        if self.at_end:
            raise ValueError(f"{source.spec} holds no rows")
        self._check_names()

    @property
    def at_end(self) -> bool:
        return self._piece is None

    def take(self, count: int) -> list[TextRow]:
        """The next `count` rows, fewer at the end."""
        return [row for _, row in self.placed(count)]

    def placed(self, count: int) -> Iterator[tuple[str, TextRow]]:
        """What `take` gives, with the place of each row."""
        for piece, start, stop in self._spans(count):
            first = self.position - (stop - start)
            for number, (place, row) in enumerate(piece.rows(start, stop), start=first):
                yield place, _text_row(self.source, row, place, number)

    def skip(self, count: int) -> None:
        """Pass over the next `count` rows, or those that there are."""
        for _ in self._spans(count):
            pass

    def _spans(self, count: int) -> Iterator[tuple[Piece, int, int]]:
        """Pieces and which rows of each make up the next `count`; `position` is behind the span that was yielded."""
        while count and self._piece is not None:
            piece, start = self._piece, self._used
            stop = min(len(piece), start + count)
            count -= stop - start
            self.position += stop - start
            self._used = stop
            yield piece, start, stop
            if stop == len(piece):
                self._advance()

    def _check_names(self) -> None:
        """ValueError for a column of metadata that no row has; it is asked of the first ones."""
        if self._piece is None or not self.source.metadata:
            return
        rows = self._piece.rows(0, len(self._piece))
        for name in self.source.metadata:
            if not any(name in row for _, row in rows):
                raise ValueError(
                    f"{self.source.spec}: field `{name}` is missing in the first {len(rows)} rows"
                )

    def _advance(self) -> None:
        self._used = 0
        self._piece = next((piece for piece in self._pieces if len(piece)), None)


def read_texts(source: str | os.PathLike[str] | TextSource) -> Iterator[TextRow]:
    """The rows of a source, see `TextSource` and `TextReader`; ValueError too when an id was used before."""
    reader = TextReader(as_source(source))
    seen: set[str] = set()
    while not reader.at_end:
        for place, row in reader.placed(ROWS_PER_PIECE):
            if row.id in seen:
                raise ValueError(f"{place}: the id {row.id!r} was used before")
            seen.add(row.id)
            yield row


def _text_row(source: TextSource, row: Row, place: str, number: int) -> TextRow:
    text = text_field(row, source.text_column, place)
    title = text_field(row, TITLE_COLUMN, place) if row.get(TITLE_COLUMN) else ""
    id_ = next((row[column] for column in ID_COLUMNS if row.get(column) is not None), number)
    return TextRow(str(id_), f"{title} {text}" if title else text, _metadata(source, row))


def _metadata(source: TextSource, row: Row) -> dict[str, Any]:
    if source.metadata is not None:
        named = {name: row.get(name) for name in source.metadata}
        return {
            name: value if isinstance(value, SCALARS) else as_text(value)
            for name, value in named.items()
            if _is_there(value)
        }
    own = {source.text_column, TITLE_COLUMN, "text", *ID_COLUMNS}
    return {
        name: value
        for name, value in row.items()
        if name not in own and isinstance(value, SCALARS) and _is_there(value)
    }


def _is_there(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
