"""Where texts come from: files, folders of files and hub data sets, read in pieces that decode their rows when asked."""

import gzip
import os
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.rows import Row, find_files, json_row
from workbench.catalog.user_examples import HUB_PREFIX, load_hub

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
ROWS_PER_PIECE = 1024
LARGEST_COUNTED = 2**30  # bytes of JSON that are read through just to count their lines
ID_COLUMNS, TITLE_COLUMN = ("_id", "id"), "title"


class Piece(Protocol):
    """Consecutive rows, not decoded yet."""

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> list[tuple[str, Row]]:
        """Some of the rows, each with its place: "file:line" or "file, row number"; ValueError for a broken one."""


class TextSource(NamedTuple):
    """Texts to embed, with what is known of them.

    Args:
        spec: a .jsonl, .jsonl.gz or .parquet file, a folder of such files, a pattern such as `data/*.parquet`, or a hub data
            set `hub:owner/name[@configuration][:split]`, which is streamed. Several files are read in the order of names.
        text_column: where the text is. `_id` or `id` names the row, and a `title` is put before its text.
        metadata: the columns that are kept beside the texts; default every other one that holds no lists, objects or
            bytes. Lists and objects that are asked for by name are kept as JSON.
    """

    spec: str
    text_column: str = "text"
    metadata: tuple[str, ...] | None = None

    @property
    def is_hub(self) -> bool:
        return self.spec.startswith(HUB_PREFIX)

    def files(self) -> list[Path]:
        """The files in the order in which they are read, none for a hub data set.

        Raises:
            FileNotFoundError: there are none.
            ValueError: a file of another kind.
        """
        return [] if self.is_hub else find_files(self.spec, SUFFIXES)

    def pieces(self) -> Iterator[Piece]:
        """All rows in their order.

        Raises:
            FileNotFoundError: there is no such file.
            PackageUnavailable: the hub data set cannot be had.
            ValueError: another kind of file, a damaged one, or a column that is not there.
        """
        if self.is_hub:
            yield from self._hub_pieces()
        for path in self.files():
            yield from self._parquet_pieces(path) if path.suffix == ".parquet" else _json_pieces(path)

    def length(self) -> int | None:
        """How many rows there are, for a progress bar; None where finding out would take long."""
        if self.is_hub:
            info = load_hub(self.spec.removeprefix(HUB_PREFIX), streaming=True).info
            return info.splits[str(info.split)].num_examples if info.splits and info.split else None
        files = self.files()
        lines = [path for path in files if path.suffix != ".parquet"]
        if sum(path.stat().st_size for path in lines) > LARGEST_COUNTED:
            return None
        counted = sum(len(piece) for path in lines for piece in _json_pieces(path))
        return counted + sum(pq.read_metadata(path).num_rows for path in files if path.suffix == ".parquet")

    def _hub_pieces(self) -> Iterator[Piece]:
        address = self.spec.removeprefix(HUB_PREFIX)
        stream = load_hub(address, streaming=True)
        if stream.features is not None:
            stream = stream.select_columns(self._columns(stream.features.arrow_schema))
        tables = iter(stream.with_format("arrow").iter(batch_size=ROWS_PER_PIECE))
        number = 0
        while True:
            try:
                table = next(tables, None)
            except Exception as error:
                raise PackageUnavailable(
                    f"the hub data set {address} broke off after {number} rows: {type(error).__name__}: {error}\n"
                    "  the same call goes on when it can be read again"
                ) from error
            if table is None:
                return
            yield TablePiece(table, address, number)
            number += table.num_rows

    def _parquet_pieces(self, path: Path) -> Iterator[Piece]:
        try:
            with pq.ParquetFile(path) as file:
                columns, number = self._columns(file.schema_arrow, str(path)), 0
                for batch in file.iter_batches(ROWS_PER_PIECE, columns=columns):
                    yield TablePiece(pa.table(batch), str(path), number)
                    number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged or not a Parquet file: {error}") from error

    def _columns(self, schema: pa.Schema, place: str | None = None) -> list[str]:
        """The columns that are read of those there are."""
        place = place or self.spec
        for column in (self.text_column, *(self.metadata or ())):
            if column not in schema.names:
                raise ValueError(
                    f"{place}: field `{column}` is missing (it has {', '.join(schema.names) or 'none'})"
                )
        kept = self.metadata
        if kept is None:
            kept = tuple(field.name for field in schema if not _holds_many(field.type))
        needed = {self.text_column, *ID_COLUMNS, TITLE_COLUMN, *kept}
        return [name for name in schema.names if name in needed]


class LinesPiece:
    """Lines of a JSONL file."""

    def __init__(self, path: Path, lines: list[tuple[int, bytes]]) -> None:
        self._path, self._lines = path, lines

    def __len__(self) -> int:
        return len(self._lines)

    def rows(self, start: int, stop: int) -> list[tuple[str, Row]]:
        places = [(f"{self._path}:{number}", line) for number, line in self._lines[start:stop]]
        return [(place, json_row(line, place)) for place, line in places]


class TablePiece:
    """Rows of a table, the first of which is row `first` of its file, counted from 0."""

    def __init__(self, table: pa.Table, name: str, first: int) -> None:
        self._table, self._name, self._first = table, name, first

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def rows(self, start: int, stop: int) -> list[tuple[str, Row]]:
        rows: list[dict[str, Any]] = self._table.slice(start, stop - start).to_pylist()
        return [
            (f"{self._name}, row {number}", row)
            for number, row in enumerate(rows, start=self._first + start + 1)
        ]


def _json_pieces(path: Path) -> Iterator[Piece]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            while piece := list(islice(lines, ROWS_PER_PIECE)):
                yield LinesPiece(path, piece)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not compressed by gzip: {error}") from error


def _holds_many(kind: pa.DataType) -> bool:
    """Whether the values of a column are lists, objects or bytes."""
    return bool(
        pa.types.is_nested(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or isinstance(kind, pa.BaseExtensionType)
    )


def as_source(source: "str | os.PathLike[str] | TextSource") -> TextSource:
    """A source given by its specification alone."""
    return source if isinstance(source, TextSource) else TextSource(os.fspath(source))
