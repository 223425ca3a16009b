"""From a file of texts to a packed index, a chunk at a time."""

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from bitembed_core import BitEmbedder, PackedEmbeddings, StorageFormat
from workbench.search.folder import STATE_FILE, IndexFolder
from workbench.search.index import SCHEMA, PackedIndex, rows_file, seal, sidecar_path
from workbench.search.text_files import TextRow, count_rows, read_texts

TEXTS_PER_CHUNK = 1024
TEXTS_PER_SEGMENT = 16384


def encode_file(
    embedder: BitEmbedder,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    precision: str = "int8",
    *,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> PackedIndex:
    """Embed the texts of a .jsonl or .parquet file as documents and write them as an index.

    Args:
        embedder: its prompt for documents is used, if it has one.
        source: see `read_texts`.
        out: the .safetensors file; the texts go into the .parquet file beside it.
        precision: how the vectors are stored.
        batch_size: texts per forward pass.
        show_progress_bar: texts done of the texts in the file.

    Raises:
        FileNotFoundError: there is no `source`.
        ValueError: an unknown precision, a row that cannot be used (by file and line), no rows, NaN
            embeddings, or `out` is no .safetensors name or would replace `source`.
        OSError: the disk is full or not writable.
        After any error there is what there was before, nothing half-written.
    """
    form = StorageFormat(precision, embedder.dimension)
    if sidecar_path(out).resolve() == Path(source).resolve():
        raise ValueError(
            f"writing {out} would replace {source} by its texts; choose another name for the output"
        )
    parts: list[PackedEmbeddings] = []
    rows = read_texts(source)
    with (
        rows_file(out) as texts_out,
        tqdm(total=None, desc="encode", unit="text", disable=not show_progress_bar) as progress,
    ):
        for chunk in chunks(rows):
            progress.total = progress.total or count_rows(source)
            texts = [row.text for row in chunk]
            parts.append(_stored(embedder, texts, form, batch_size))
            texts_out.write_table(pa.table({"id": [row.id for row in chunk], "text": texts}, schema=SCHEMA))
            progress.update(len(chunk))
        seal(texts_out, PackedEmbeddings.concatenate(parts), out)
    return PackedIndex.open(out)


def encode_to_folder(
    embedder: BitEmbedder,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    precision: str = "int8",
    *,
    batch_size: int = 32,
    show_progress_bar: bool = True,
) -> IndexFolder:
    """Embed the texts of a file into an index folder, segment after segment.

    After an interruption, by a kill too, the same call goes on behind the last segment that was written.

    Raises:
        FileNotFoundError: there is no `source`.
        ValueError: as for `encode_file`, or `out` holds an index of another format, or of other texts.
        OSError: the disk is full or not writable.
    """
    form = StorageFormat(precision, embedder.dimension)
    rows = read_texts(source)
    rows = chain(list(islice(rows, 1)), rows)  # a source that cannot be read leaves no index behind
    if (Path(out) / STATE_FILE).is_file():
        index = IndexFolder.open(out)
        if index.format != form:
            raise ValueError(f"{out} stores {index.format}, not {form}; choose another name")
    else:
        index = IndexFolder.create(out, form)
    done = len(index)
    if not all(stored == next(rows, None) for stored in index.rows()):
        raise ValueError(f"{out} holds other texts than the first {done} of {source}; choose another name")
    total = count_rows(source)
    with tqdm(
        total=total, initial=done, desc="encode", unit="text", disable=not show_progress_bar
    ) as progress:
        while segment := list(islice(rows, TEXTS_PER_SEGMENT)):
            parts = []
            for chunk in chunks(iter(segment)):
                texts = [row.text for row in chunk]
                parts.append(_stored(embedder, texts, form, batch_size))
                progress.update(len(chunk))
            vectors = PackedEmbeddings.concatenate(parts)
            index.add(vectors, [row.id for row in segment], [row.text for row in segment])
    return index


def _stored(
    embedder: BitEmbedder, texts: list[str], form: StorageFormat, batch_size: int
) -> PackedEmbeddings:
    x = embedder.encode_document(texts, batch_size=batch_size, show_progress_bar=False)
    return form.encode(np.asarray(x))


def chunks(rows: Iterator[TextRow]) -> Iterator[list[TextRow]]:
    """Consecutive rows, TEXTS_PER_CHUNK at a time."""
    while chunk := list(islice(rows, TEXTS_PER_CHUNK)):
        yield chunk
