"""The texts to embed from a user's file."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from workbench.catalog.rows import SUFFIXES, Row, read_rows, text_field


class TextRow(NamedTuple):
    """A text to embed; `id` is its row number, from 0, when the file gives none."""

    id: str
    text: str


def read_texts(path: str | os.PathLike[str]) -> Iterator[TextRow]:
    """The rows of a .jsonl or .parquet file with `text` and optionally `_id` or `id`, and `title`.

    A title is put before its text, as in retrieval benchmarks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, no rows, or a row that cannot be used, named by file and line:
            broken JSON, no text, an empty one, an id used before.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} cannot be read: texts come from {' or '.join(SUFFIXES)} files")
    seen: set[str] = set()
    for number, (place, row) in enumerate(read_rows(path)):
        text = text_field(row, "text", place)
        title = text_field(row, "title", place) if row.get("title") else ""
        id_ = _id(row, number)
        if id_ in seen:
            raise ValueError(f"{place}: the id {id_!r} was used before")
        seen.add(id_)
        yield TextRow(id_, f"{title} {text}" if title else text)


def count_rows(path: str | os.PathLike[str]) -> int:
    """How many rows a readable file has, for a progress bar."""
    path = Path(path)
    if path.suffix == ".parquet":
        return pq.read_metadata(path).num_rows
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _id(row: Row, number: int) -> str:
    given = row.get("_id", row.get("id"))
    return str(number) if given is None else str(given)
