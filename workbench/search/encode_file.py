"""From texts to one packed index in a file, a chunk at a time."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from bitembed_core import BitEmbedder, PackedEmbeddings, StorageFormat
from workbench.search.index import PackedIndex, save_pair, sidecar_path
from workbench.search.sidecar import joined_schema, rows_table
from workbench.search.text_files import TextRow, read_texts
from workbench.search.text_source import TextSource, as_source

TEXTS_PER_CHUNK = 1024


def encode_file(
    embedder: BitEmbedder,
    source: str | os.PathLike[str] | TextSource,
    out: str | os.PathLike[str],
    precision: str = "int8",
    *,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> PackedIndex:
    """Embed texts as documents and write them as an index. The vectors have to fit into memory, the texts do not.

    Args:
        embedder: its prompt for documents is used, if it has one.
        source: see `TextSource`.
        out: the .safetensors file; the texts go into the .parquet file beside it.
        precision: how the vectors are stored.
        batch_size: texts per forward pass.
        show_progress_bar: texts done of the texts in the source.

    Raises:
        FileNotFoundError, PackageUnavailable: there is no `source`.
        ValueError: an unknown precision, a row that cannot be used (by file and line), no rows, an id that was used before,
            NaN embeddings, or `out` is no .safetensors name or would replace `source`.
        OSError: the disk is full or not writable.
        After any error there is what there was before, nothing half-written.
    """
    form = StorageFormat(precision, embedder.dimension)
    source, out = as_source(source), Path(out)
    if sidecar_path(out).resolve() in {file.resolve() for file in source.files()}:
        raise ValueError(
            f"writing {out} would replace {sidecar_path(out)} by its texts; choose another name for the output"
        )
    rows = read_texts(source)
    parts: list[PackedEmbeddings] = []
    schemas: list[pa.Schema] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch,
        tqdm(desc="encode", unit="text", disable=not show_progress_bar) as progress,
    ):
        for number, chunk in enumerate(chunks(rows)):
            progress.total = progress.total or source.length()
            parts.append(encoded(embedder, chunk, form, batch_size))
            table = table_of(chunk)
            schemas.append(table.schema)
            pq.write_table(table, Path(scratch, f"{number}.parquet"))
            progress.update(len(chunk))
        tables = (pq.read_table(Path(scratch, f"{number}.parquet")) for number in range(len(schemas)))
        save_pair(out, PackedEmbeddings.concatenate(parts), tables, joined_schema(schemas))
    return PackedIndex.open(out)


def encoded(
    embedder: BitEmbedder, rows: list[TextRow], form: StorageFormat, batch_size: int
) -> PackedEmbeddings:
    """The stored vectors of a chunk of rows."""
    texts = [row.text for row in rows]
    x_ND = embedder.encode_document(texts, batch_size=batch_size, show_progress_bar=False)
    return form.encode(np.asarray(x_ND))


def table_of(rows: list[TextRow]) -> pa.Table:
    """Rows as the sidecar has them."""
    return rows_table([row.id for row in rows], [row.text for row in rows], [row.metadata for row in rows])


def chunks(rows: Iterator[TextRow]) -> Iterator[list[TextRow]]:
    """Consecutive rows, TEXTS_PER_CHUNK at a time."""
    while chunk := list(islice(rows, TEXTS_PER_CHUNK)):
        yield chunk
