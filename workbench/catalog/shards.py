"""The files of a data set that is larger than memory, as blocks of rows that can be read in any order.

A block is a row group of a Parquet file, or some thousand lines of a JSONL file. To find the blocks, the footers of
Parquet files are read, and JSONL files once in their life; to read a block, nothing else is.
"""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from bitembed_core.files import read_json, write_json
from workbench.catalog.packages import PackageUnavailable, cache_root
from workbench.catalog.rows import Row, find_files, json_row
from workbench.catalog.user_examples import HUB_PREFIX, hub_address

LINES_PER_BLOCK = 4096
FOOTERS_KEPT = 256
READERS = 8  # threads; most of their work is waiting


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Row group `number`, of `rows` rows, of a Parquet file; `file` is a path or a URL."""

    file: str
    number: int
    rows: int

    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(_footer(self.file).schema.to_arrow_schema().names)

    def read(self, columns: Sequence[str]) -> list[Row]:
        """The rows, with these columns of them."""
        missing = ", ".join(name for name in columns if name not in self.columns())
        if missing:
            raise ValueError(f"{self.file} lacks {missing}, which other files of its data set have")
        with _parquet(self.file, _footer(self.file)) as parquet:
            rows: list[Row] = parquet.read_row_group(
                self.number, columns=list(columns), use_threads=False
            ).to_pylist()
        return rows


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a JSONL file from byte `start` up to byte `stop`, which hold `rows` rows; see `RowGroup`."""

    file: str
    start: int
    stop: int
    rows: int

    def columns(self) -> list[str]:
        return list(self._objects()[0])

    def read(self, columns: Sequence[str]) -> list[Row]:
        return [{name: row.get(name) for name in columns} for row in self._objects()]

    def _objects(self) -> list[Row]:
        with open(self.file, "rb") as file:
            file.seek(self.start)
            lines = file.read(self.stop - self.start).split(b"\n")
        place = f"{self.file}, in the lines from byte {self.start} on"
        return [json_row(line, place) for line in lines if line.strip()]


Block = RowGroup | Lines


def blocks_of(spec: str) -> tuple[Block, ...]:
    """The blocks of a file, folder or pattern of .jsonl or .parquet, or of `hub:owner/name[@configuration][:split]`.

    Raises:
        FileNotFoundError: there are no such files.
        PackageUnavailable: the hub data set cannot be had.
        ValueError: there are no rows, a file is damaged, or a hub data set is not stored as Parquet.
    """
    is_hub = spec.startswith(HUB_PREFIX)
    files = hub_files(spec.removeprefix(HUB_PREFIX)) if is_hub else list(map(str, find_files(spec)))
    with ThreadPoolExecutor(READERS) as readers:
        blocks = [block for part in readers.map(_blocks, files) for block in part]
    if not blocks:
        raise ValueError(f"{spec} holds no rows")
    return tuple(blocks)


def hub_files(spec: str) -> list[str]:
    """The URLs of a hub data set's Parquet files, at the commit that it has now."""
    import datasets

    name, configuration, split = hub_address(spec)
    try:
        by_split = datasets.load_dataset_builder(name, configuration).config.data_files or {}
    except Exception as error:
        raise PackageUnavailable(
            f"cannot find the hub data set {spec}: is this machine online, and is the name right?\n"
            f"  {type(error).__name__}: {error}"
        ) from error
    if split not in by_split:
        raise ValueError(
            f"the hub data set {name} has no files of a split {split!r}: {', '.join(map(str, by_split)) or 'none'}"
        )
    files = list(by_split[split])
    if not all(file.endswith(".parquet") for file in files):
        raise ValueError(
            f"the hub data set {name} is not stored as Parquet files and cannot be read from the middle: "
            "download it and write it as Parquet"
        )
    return files


def _blocks(file: str) -> list[Block]:
    if file.endswith(".parquet"):
        footer = _footer(file)
        counts = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
        return [RowGroup(file, number, rows) for number, rows in enumerate(counts) if rows]
    return [Lines(file, start, stop, rows) for start, stop, rows in _line_spans(Path(file))]


def _line_spans(path: Path) -> list[tuple[int, int, int]]:
    """(start, stop, rows) of the blocks of a JSONL file; kept in the cache, for that takes reading it all."""
    state = path.stat()
    key = json.dumps([str(path.resolve()), state.st_size, state.st_mtime_ns, LINES_PER_BLOCK])
    kept = cache_root() / "lines" / f"{xxhash.xxh3_128_hexdigest(key.encode())}.json"
    if not kept.exists():
        write_json(kept, list(_find_line_spans(path)))
    return [(start, stop, rows) for start, stop, rows in read_json(kept)]


def _find_line_spans(path: Path) -> Iterator[tuple[int, int, int]]:
    start = stop = rows = 0
    with path.open("rb") as lines:
        for line in lines:
            stop += len(line)
            rows += bool(line.strip())
            if rows == LINES_PER_BLOCK:
                yield start, stop, rows
                start, rows = stop, 0
    if rows:
        yield start, stop, rows


@contextmanager
def _parquet(file: str, footer: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    try:
        if "://" in file:
            with fsspec.open(file, "rb") as remote:
                yield pq.ParquetFile(remote, metadata=footer, pre_buffer=True)
        else:
            with pq.ParquetFile(file, metadata=footer, memory_map=True) as local:
                yield local
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read, is damaged or not a Parquet file: {error}") from error


def _footer(file: str) -> pq.FileMetaData:
    return _footer_at(file, None if "://" in file else os.stat(file).st_mtime_ns)


@lru_cache(FOOTERS_KEPT)
def _footer_at(file: str, changed: int | None) -> pq.FileMetaData:
    with _parquet(file) as parquet:
        return parquet.metadata
