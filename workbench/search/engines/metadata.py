"""Metadata of rows as engines keep it: one object beside each text."""

import json
import math
from collections.abc import Mapping
from datetime import date, time
from typing import Any

import pyarrow as pa

from workbench.search.sidecar import SCHEMA, as_text


def json_object(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in the types of JSON: dates as ISO 8601 text, other types as `str` has them, NaN and infinity as null."""
    return {name: _json_value(value) for name, value in metadata.items()}


def json_text(metadata: Mapping[str, Any]) -> str:
    """`json_object` written down."""
    return json.dumps(json_object(metadata), ensure_ascii=False, allow_nan=False)


def texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as texts, for an engine that keeps nothing else: JSON where that has the type."""
    return {name: as_text(value) for name, value in json_object(metadata).items() if value is not None}


def struct_type(columns: pa.Schema) -> pa.StructType | None:
    """The type of an object with all metadata of an index; None if it has none.

    Args:
        columns: of the index, id and text included.
    """
    fields = [f for f in columns if f.name not in SCHEMA.names and not pa.types.is_null(f.type)]
    return pa.struct(fields) if fields else None


def struct_array(rows: list[Mapping[str, Any]], type_: pa.StructType) -> pa.Array:
    """Metadata of rows as objects; where an index joined a column's types as text, so are its values."""
    as_texts = {field.name for field in type_ if pa.types.is_string(field.type)}
    return pa.array(
        [
            {name: as_text(value) if name in as_texts else value for name, value in row.items()}
            for row in rows
        ],
        type_,
    )


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return json_object(value)
    if isinstance(value, list):
        return [_json_value(item) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
