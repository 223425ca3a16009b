"""The Parquet file beside stored vectors: id, text and a column for each kind of metadata that a row has."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def rows_table(ids: Sequence[str], texts: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table; a column of metadata has the type of its values, or is text where they have several.

    Raises:
        ValueError: metadata of the name of a column that every row has.
    """
    table = pa.table({"id": list(ids), "text": list(texts)}, schema=SCHEMA)
    names = dict.fromkeys(name for row in metadata for name, value in row.items() if value is not None)
    for name in names:
        if name in SCHEMA.names:
            raise ValueError(f"metadata cannot be called {name!r}, as the {name} itself is; rename it")
        table = table.append_column(name, _column([row.get(name) for row in metadata]))
    return table


def joined_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all tables. Whole and fractional numbers are joined as fractional ones, other types as text."""
    fields: dict[str, pa.Field] = {}
    for field in (field for schema in schemas for field in schema):
        fields[field.name] = _joined(fields.get(field.name, field), field)
    return pa.schema(list(fields.values()))


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a joined schema; those that it lacks are null."""
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all tables, with the columns of all."""
    schema = joined_schema(table.schema for table in tables)
    return pa.concat_tables([as_schema(table, schema) for table in tables])


def write_sidecar(
    path: Path, tables: Iterable[pa.Table], schema: pa.Schema, facts: Mapping[str, str]
) -> None:
    """Write tables, one after the other, as one Parquet file with `facts` in its metadata."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(as_schema(table, schema))
        writer.add_key_value_metadata(dict(facts))


def as_text(value: object) -> str:
    """A value of metadata as text: JSON where that has such values, else what `str` makes of it."""
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else as_text(value) for value in values], pa.string())


def _joined(one: pa.Field, other: pa.Field) -> pa.Field:
    try:
        return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.field(one.name, pa.string())
