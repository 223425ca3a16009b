"""A user's JSONL and Parquet files: finding them, and their rows, with errors that name the file and the line."""

import glob
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".parquet")


def find_files(spec: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files with one of `suffixes` that a file, a folder or a pattern such as `data/*.parquet` names, in their order.

    FileNotFoundError when there are none; ValueError for a file of another kind. Hidden files of folders and patterns are
    passed over.
    """

    def is_readable(path: Path) -> bool:
        return path.name.endswith(suffixes) and not path.name.startswith(".")

    path = Path(spec)
    if path.is_dir():
        found = [entry for entry in path.iterdir() if is_readable(entry)]
    elif glob.has_magic(spec) and not path.exists():
        matches = map(Path, glob.glob(spec, recursive=True))
        found = [match for match in matches if match.is_file() and is_readable(match)]
    elif not is_readable(path):
        raise ValueError(
            f"{path} cannot be read: texts come from {', '.join(suffixes[:-1])} or {suffixes[-1]} files"
        )
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise FileNotFoundError(f"there is no {', '.join(suffixes)} file at {spec}")
    return sorted(found)


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) of each row of a .jsonl or .parquet file; a place reads "file:line" or "file, row number".

    FileNotFoundError when there is no such file; ValueError when it has no rows, is no Parquet file, or has a
    line that is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    read: Callable[[Path], Iterator[tuple[str, Row]]]
    read = _parquet_rows if path.suffix == ".parquet" else _json_rows
    empty = True
    for place, row in read(path):
        empty = False
        yield place, row
    if empty:
        raise ValueError(f"{path} holds no rows")


def text_field(row: Row, field: str, place: str, may_be_empty: bool = False) -> str:
    """A field that must hold a text, with something in it unless it may be empty; ValueError names the place."""
    if field not in row:
        raise ValueError(f"{place}: field `{field}` is missing (it has {', '.join(row) or 'none'})")
    value = row[field]
    if not isinstance(value, str):
        raise ValueError(f"{place}: field `{field}` must be a text, got {type(value).__name__}")
    if not may_be_empty and not value.strip():
        raise ValueError(f"{place}: field `{field}` is empty")
    return value


def json_row(line: bytes, place: str) -> Row:
    """A line's JSON object; ValueError names the place of anything else."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: expected an object like {{...}}, got {type(row).__name__}")
    return row


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            yield place, json_row(line, place)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    number = 0
    for batch in file.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row
