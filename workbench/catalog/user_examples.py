"""Training examples of one's own: JSONL and Parquet files, and hub data sets through `datasets`."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.rows import SUFFIXES, Row, read_rows, text_field

HUB_PREFIX = "hub:"
QUERY_COLUMNS = ("query", "anchor", "question")
POSITIVE_COLUMNS = ("positive", "answer", "passage", "document")
NEGATIVE_COLUMN = re.compile(r"negatives?(_\d+)?$")


def is_example_file(spec: str) -> bool:
    return spec.endswith(SUFFIXES)


def read_file(path: Path, kind: str) -> list[ExampleSource]:
    """{query, positive, negatives?, source?, in_batch?} rows, grouped by `source` (else the file's stem).

    A source is kept from in-batch negatives when one of its rows says `"in_batch": false`. `kind`
    "triplets" asks every row for negatives. FileNotFoundError, or ValueError naming the file and the line.
    """
    examples: dict[str, list[Example]] = {}
    apart = set()
    for place, row in read_rows(path):
        source = text_field(row, "source", place) if row.get("source") is not None else path.stem
        examples.setdefault(source, []).append(_example(row, place, kind))
        if row.get("in_batch") is not None and not _flag(row, "in_batch", place):
            apart.add(source)
    return [
        ExampleSource(name, str(path), "the user's own", rows, in_batch=name not in apart)
        for name, rows in examples.items()
    ]


def read_texts(path: Path) -> list[str]:
    """The `text` of each row of a file, [] when its first row has no such field."""
    rows = read_rows(path)
    place, first = next(rows)
    if "text" not in first:
        return []
    return [text_field(first, "text", place), *(text_field(row, "text", place) for place, row in rows)]


def read_hub(spec: str, kind: str) -> ExampleSource:
    """A hub data set, `owner/name[@configuration][:split]` (split "train" unless said), through `datasets`.

    It needs a query, anchor or question, a positive (or answer, passage, document), and may have negative,
    negatives or negative_1, negative_2 ... PackageUnavailable when it cannot be loaded, ValueError when its
    columns do not fit.
    """
    name, _, split = hub_address(spec)
    table = load_hub(spec)
    query = first_column(QUERY_COLUMNS, table.column_names, name)
    positive = first_column(POSITIVE_COLUMNS, table.column_names, name)
    negatives = [column for column in table.column_names if NEGATIVE_COLUMN.fullmatch(column)]
    examples = [
        _example(
            {
                "query": row[query],
                "positive": row[positive],
                "negatives": [text for column in negatives for text in as_list(row[column])],
            },
            f"{name}, row {number}",
            kind,
        )
        for number, row in enumerate(table)
    ]
    return ExampleSource(name, f"hub data set {name}, split {split}", "see its page", examples)


def hub_address(spec: str) -> tuple[str, str | None, str]:
    """Name, configuration and split (default "train") of `owner/name[@configuration][:split]`."""
    address, _, split = spec.partition(":")
    name, _, configuration = address.partition("@")
    return name, configuration or None, split or "train"


def load_hub(spec: str, **options: Any) -> Any:
    """What `datasets.load_dataset` gives for a specification; PackageUnavailable when it cannot be loaded."""
    import datasets

    name, configuration, split = hub_address(spec)
    try:
        return datasets.load_dataset(name, configuration, split=split, **options)
    except Exception as error:
        raise PackageUnavailable(
            f"cannot load the hub data set {spec}: is this machine online, and is the name right?\n"
            f"  {type(error).__name__}: {error}"
        ) from error


def first_column(wanted: Iterable[str], columns: list[str], name: str) -> str:
    found = next((column for column in wanted if column in columns), None)
    if found is None:
        raise ValueError(
            f"{name} has columns {', '.join(columns)}: none of {', '.join(wanted)} is among them"
        )
    return found


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _example(row: Row, place: str, kind: str) -> Example:
    negatives = as_list(row.get("negatives"))
    for negative in negatives:
        if not isinstance(negative, str) or not negative.strip():
            raise ValueError(f"{place}: `negatives` must be texts, got {negative!r}")
    if kind == "triplets" and not negatives:
        raise ValueError(f"{place}: `negatives` is missing; triplets need at least one in every row")
    return Example(text_field(row, "query", place), text_field(row, "positive", place), tuple(negatives))


def _flag(row: Row, field: str, place: str) -> bool:
    if not isinstance(row[field], bool):
        raise ValueError(f"{place}: field `{field}` must be true or false, got {row[field]!r}")
    return bool(row[field])
