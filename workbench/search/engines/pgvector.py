"""PostgreSQL with pgvector: one SQL script with the rows in it, for psql or the loader here."""

import re
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workbench.search.engines.export import Batch, Engine, Export, client_library, number_list
from workbench.search.engines.metadata import json_text
from workbench.search.engines.vectors import VectorType, hamming_score
from workbench.search.index import Hit

SCRIPT_FILE = "index.sql"
# SQL type, distance, operators of an index, and the most dimensions that it takes
TYPES: dict[VectorType, tuple[str, str, str, int]] = {
    "float32": ("vector", "<#>", "vector_ip_ops", 2000),
    "float16": ("halfvec", "<#>", "halfvec_ip_ops", 4000),
    "bits": ("bit", "<~>", "bit_hamming_ops", 64000),
}
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
LEAST_VISITED = 64  # of a graph, whatever `top` is
ESCAPED_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")
END = "\\.\n"


def write(export: Export, batches: Iterable[Batch], columns: pa.Schema) -> None:
    r"""`index.sql`, to be run by `psql -f` as often as one likes: rows with the same ids are replaced.

    Metadata is a column of type jsonb. Above pgvector's limit of dimensions there is no graph, and searches compare with
    every vector.

    Raises:
        ValueError: a text or metadata with a NUL character, which PostgreSQL cannot hold.
    """
    type_, _, operators, most = TYPES[export.type]
    table, column = f'"{export.name}"', f"{type_}({export.format.kept})"
    before = f"""\
BEGIN;
SET LOCAL client_encoding = 'UTF8';
SET LOCAL client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY, text text NOT NULL, embedding {column} NOT NULL,
    metadata jsonb NOT NULL);
CREATE TEMPORARY TABLE "{export.name}_incoming" (id text, text text, embedding {column}, metadata jsonb) ON COMMIT DROP;
COPY "{export.name}_incoming" (id, text, embedding, metadata) FROM STDIN;
"""
    after = f"""\
INSERT INTO {table} SELECT id, text, embedding, metadata FROM "{export.name}_incoming"
    ON CONFLICT (id) DO UPDATE
    SET text = EXCLUDED.text, embedding = EXCLUDED.embedding, metadata = EXCLUDED.metadata;
"""
    if export.format.kept <= most:
        after += f'CREATE INDEX IF NOT EXISTS "{export.name}_graph" ON {table} USING hnsw (embedding {operators});\n'
    with (export.folder / SCRIPT_FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.write(before)
        for batch in batches:
            for row, vector in zip(batch.rows, batch.vectors, strict=True):
                fields = (_text(row.id), _text(row.text), _literal(vector, export), _json(row.metadata))
                file.write("\t".join(fields) + "\n")
        file.write(f"{END}{after}COMMIT;\n")


class PostgresStore:
    """A table of a PostgreSQL database with pgvector 0.7 or newer.

    Args:
        target: a connection string, such as `postgresql://user@host/database`.
        options: for `psycopg.connect`, such as `password`.
    """

    def __init__(self, export: Export, target: str, **options: Any) -> None:
        self._export = export
        psycopg = client_library("psycopg", "'psycopg[binary]'")
        self.connection = psycopg.connect(target, autocommit=True, **options)

    def load(self) -> None:
        """See `Store.load`: run the script."""
        with (
            (self._export.folder / SCRIPT_FILE).open(encoding="utf-8", newline="\n") as script,
            self.connection.cursor() as cursor,
        ):
            try:
                before, copy = _until_copy(script)
                cursor.execute(before)
                with cursor.copy(copy) as rows:
                    for line in iter(script.readline, END):
                        rows.write(line)
                cursor.execute(script.read())
            finally:
                self.connection.rollback()  # of what an error left unfinished

    def search(self, queries: NDArray[np.floating], top: int = 10, exact: bool = False) -> list[list[Hit]]:
        """See `Store.search`; `exact` compares with every vector instead of walking the graph."""
        asked = self._export.asked(queries, top)
        type_, distance, _, _ = TYPES[self._export.type]
        select = (
            f"SELECT id, text, metadata, embedding {distance} %s::{type_}({self._export.format.kept}) AS distance "
            f'FROM "{self._export.name}" ORDER BY distance LIMIT %s'
        )
        with self.connection.transaction(), self.connection.cursor() as cursor:
            if exact:
                cursor.execute("SET LOCAL enable_indexscan = off")
            else:  # a graph gives no more hits than it looks at
                cursor.execute(f"SET LOCAL hnsw.ef_search = {min(max(top, LEAST_VISITED), 1000)}")
            return [
                [
                    Hit(id_, text, self._score(distance), metadata)
                    for id_, text, metadata, distance in cursor.execute(
                        select, [_literal(query, self._export), top]
                    )
                ]
                for query in asked
            ]

    def close(self) -> None:
        """See `Store.close`."""
        self.connection.close()

    def _score(self, distance: float) -> float:
        return hamming_score(distance, self._export.format) if self._export.type == "bits" else -distance


def _until_copy(script: IO[str]) -> tuple[str, str]:
    """The statements before the rows, and the one that takes them."""
    before: list[str] = []
    for line in iter(script.readline, ""):
        if line.startswith("COPY "):
            return "".join(before), line
        before.append(line)
    raise ValueError(f"{script.name} has no rows: damaged")


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError(
            f"PostgreSQL holds no NUL character, which is in {text[:100]!r}; take it out and encode again"
        )
    return text.translate(ESCAPES)


def _json(metadata: Mapping[str, Any]) -> str:
    text = json_text(metadata)
    if ESCAPED_NUL.search(text):
        raise ValueError(
            f"PostgreSQL holds no NUL character, which is in {text[:100]}; take it out and encode again"
        )
    return text.translate(ESCAPES)


def _literal(vector: NDArray[Any], export: Export) -> str:
    if export.type == "bits":
        return (np.unpackbits(vector, count=export.format.kept) + ord("0")).tobytes().decode()
    return number_list(vector)


ENGINE = Engine(tuple(TYPES), write, PostgresStore)
