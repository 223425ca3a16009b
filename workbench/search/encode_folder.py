"""From texts to an index folder, shard after shard, by one process or many, going on after a kill.

A shard is `shard_size` consecutive rows of the source, so that what is encoded together, and with it every code, depends
neither on the number of processes nor on interruptions. Each process reads through the source, encodes the shards that are
its own and skips the others; see `shards.py` for how they come together.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm.auto import tqdm

from bitembed_core import BitEmbedder, PackedEmbeddings, StorageFormat
from workbench.search.encode_file import chunks, encoded, table_of
from workbench.search.folder import IndexFolder
from workbench.search.index import PackedIndex
from workbench.search.manifest import Manifest
from workbench.search.processes import ALONE, Processes
from workbench.search.shards import Keeper, Shards
from workbench.search.sidecar import as_schema
from workbench.search.text_files import TextReader, TextRow
from workbench.search.text_source import TextSource, as_source

SHARD_SIZE = 16384


class Encoded(NamedTuple):
    """What a call has done: texts in the index, those encoded by this call, by all processes, and its seconds."""

    format: StorageFormat
    texts: int
    new: int
    seconds: float


def encode_to_folder(
    embedder: BitEmbedder,
    source: str | os.PathLike[str] | TextSource,
    out: str | os.PathLike[str],
    precision: str = "int8",
    *,
    batch_size: int = 32,
    shard_size: int = SHARD_SIZE,
    processes: Processes = ALONE,
    show_progress_bar: bool = True,
) -> Encoded:
    """Embed texts as documents into an index folder.

    After an interruption, by a kill too, the same call goes on behind the shards that were finished; also with another
    number of processes, and after rows were added at the end of the source.

    Args:
        source: see `TextSource`.
        shard_size: texts in a segment of the index, which is what an interruption may lose of each process.
        processes: this one of those that work together; each makes the same call.
        show_progress_bar: by the first process.

    Raises:
        FileNotFoundError, PackageUnavailable: there is no `source`.
        ValueError: as for `encode_file`; or `out` holds an index of another format, model or settings, or of other texts.
        OSError: the disk is full or not writable, or another call is encoding into `out`.
    """
    began = time.monotonic()
    source, out = as_source(source), Path(out)
    form = StorageFormat(precision, embedder.dimension)
    if shard_size < 1:
        raise ValueError(f"a shard has at least 1 text, got {shard_size}")
    if any(out.resolve() in file.resolve().parents for file in source.files()):
        raise ValueError(f"{source.spec} lies in {out}; choose another folder for the index")
    TextReader(source)  # a source that cannot be read leaves no index behind
    keeper = None
    if processes.rank == 0:
        keeper = _open(out, form, source, _settings(embedder, source))
    try:
        if keeper is not None:
            _compare(keeper, source, shard_size)
            keeper.commit()
        processes.wait()
        with _progress(source, keeper if show_progress_bar else None) as progress:

            def commit() -> None:
                if keeper is not None and keeper.commit() > progress.n:
                    progress.update(keeper.manifest.rows - progress.n)

            texts = new = 0
            for end, shard in _own_shards(source, out, shard_size, processes):
                texts = end
                if shard:
                    parts = []
                    for chunk in chunks(iter(shard)):
                        parts.append(encoded(embedder, chunk, form, batch_size))
                        progress.update(len(chunk))
                    vectors = PackedEmbeddings.concatenate(parts)
                    Shards(out).write(end - len(shard), PackedIndex.of_table(vectors, table_of(shard)))
                    new += len(shard)
                commit()
            new = processes.wait(new, meanwhile=commit)
            commit()
        if keeper is not None:
            if keeper.manifest.rows != texts:
                raise ValueError(
                    f"{out} has {keeper.manifest.rows} of {texts} texts: {source.spec} changed while it was read, or a "
                    "shard was lost; the same call goes on"
                )
            keeper.clear()
    finally:
        if keeper is not None:
            keeper.close()
    return Encoded(form, texts, new, time.monotonic() - began)


def _own_shards(
    source: TextSource, out: Path, shard_size: int, processes: Processes
) -> Iterator[tuple[int, list[TextRow]]]:
    """Reads through what the index lacks: where each shard ends, and its rows if this process is to encode it."""
    finished = Shards(
        out
    ).finished()  # before the rows of the index, as a shard leaves when it has become part of it
    reader = TextReader(source)
    reader.skip(Manifest.read(out).rows)
    yield reader.position, []
    while not reader.at_end:
        start, rows = reader.position, []
        if start in finished or start // shard_size % processes.count != processes.rank:
            reader.skip(shard_size)
        else:
            rows = reader.take(shard_size)
        yield reader.position, rows


def _open(out: Path, form: StorageFormat, source: TextSource, settings: dict[str, Any]) -> Keeper:
    """The index in `out` for going on with it, or a new one."""
    if not Manifest.is_in(out):
        IndexFolder.create(out, form, settings)
        return Keeper(out, source.spec)
    manifest = Manifest.read(out)
    if manifest.format != form:
        raise ValueError(f"{out} stores {manifest.format}, not {form}; choose another name")
    if manifest.deletions is not None:
        raise ValueError(
            f"texts were deleted from {out}, so encoding cannot go on in it; choose another name"
        )
    for name, value in (manifest.encoding or {}).items():
        if settings.get(name) != value:
            raise ValueError(f"{out} was encoded with another {name.replace('_', ' ')}; choose another name")
    return Keeper(out, source.spec)


def _settings(embedder: BitEmbedder, source: TextSource) -> dict[str, Any]:
    """What has to stay the same for all rows of an index, as JSON has it."""
    from workbench.fingerprint import weights_fingerprint

    return {
        "model": weights_fingerprint(embedder),
        "prompt": embedder.prompts.get("document"),
        "max_length": embedder.max_length,
        "text_column": source.text_column,
        "metadata": None if source.metadata is None else list(source.metadata),
    }


def _compare(keeper: Keeper, source: TextSource, shard_size: int) -> None:
    """Hold what is finished against the source. Shards that do not fit it are removed.

    Raises:
        ValueError: the index itself has other rows, or is damaged.
    """
    reader = TextReader(source)
    for segment in keeper.manifest.segments:
        index = PackedIndex.open(keeper.index / f"{segment.name}.safetensors")
        for start in range(0, len(index), shard_size):
            stored = index.table.slice(start, shard_size)
            first = reader.position
            if not _same(stored, reader.take(stored.num_rows)):
                raise ValueError(
                    f"{keeper.index} holds other texts than {source.spec}, in the rows {first + 1} to "
                    f"{first + stored.num_rows}; choose another name"
                )
            keeper.note_ids(stored["id"].to_pylist(), first)
    finished = keeper.shards.finished()
    fitting = set()
    while not reader.at_end and reader.position <= max(finished, default=-1):
        if reader.position not in finished:
            reader.skip(shard_size)
            continue
        start = reader.position
        try:
            stored = PackedIndex.open(keeper.shards.file(start)).table
        except (ValueError, FileNotFoundError):  # damaged
            stored = None
        if _same(stored, reader.take(shard_size)):
            fitting.add(start)
    for start in finished - fitting:
        keeper.shards.remove(start)


def _same(stored: pa.Table | None, rows: list[TextRow]) -> bool:
    """Whether a table holds rows of a source."""
    if stored is None:
        return False
    found = table_of(rows)
    if set(found.column_names) - set(stored.column_names):
        return False
    try:
        return bool(as_schema(found, stored.schema).equals(stored))
    except pa.ArrowException:  # a column of another type
        return False


def _progress(source: TextSource, keeper: Keeper | None) -> tqdm:
    """A bar of all texts, for the keeper to show."""
    if keeper is None:
        return tqdm(disable=True)
    return tqdm(total=source.length(), initial=keeper.manifest.rows, desc="encode", unit="text")
