"""Parts of an index folder that are finished and do not count yet, and how they come to count in the order of the source.

A shard is a `PackedIndex` in `.shards/`, named by the number of its first row. Every process writes its own; one process,
the keeper, makes those that follow on the rows of the index its next segments.
"""

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from workbench.search.index import PackedIndex
from workbench.search.manifest import (
    LOCK_FILE,
    SHARDS_FOLDER,
    Manifest,
    SegmentEntry,
    changing,
    segment_name,
    to_disk,
)

SUFFIXES = (
    ".safetensors",
    ".parquet",
)  # in the order in which they are written: the second one says that both are there


class Shards:
    """The shards of an index folder."""

    def __init__(self, index: Path) -> None:
        self.path = index / SHARDS_FOLDER

    def finished(self) -> set[int]:
        """First rows of the shards that are whole."""
        return {int(file.stem) for file in self.path.glob("[0-9]*.parquet")}

    def file(self, start: int, suffix: str = ".safetensors") -> Path:
        return self.path / f"{start:012}{suffix}"

    def write(self, start: int, shard: PackedIndex) -> None:
        """Write the shard that begins with row `start`; it is there when this returns, or not at all."""
        shard.save(self.file(start))
        for suffix in SUFFIXES:
            to_disk(self.file(start, suffix))

    def remove(self, start: int) -> None:
        for suffix in reversed(SUFFIXES):
            self.file(start, suffix).unlink(missing_ok=True)


class Keeper:
    """The one process that changes the index folder while it is being encoded into."""

    def __init__(self, index: Path, source: str) -> None:
        self.index, self.source = index, source
        self.shards = Shards(index)
        self.shards.path.mkdir(exist_ok=True)
        self._lock = FileLock(self.shards.path / LOCK_FILE)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OSError(f"another call is encoding into {index}") from error
        self.manifest = Manifest.read(index)
        self._ids = np.empty(0, dtype=np.uint64)

    def note_ids(self, ids: list[str], first: int) -> None:
        """Remember the ids of rows that begin with row `first`; ValueError when one was there before."""
        digests = np.array([xxhash.xxh3_64_intdigest(id_.encode()) for id_ in ids], dtype=np.uint64)
        known = np.isin(digests, self._ids, kind="sort") if len(self._ids) else np.zeros(len(ids), dtype=bool)
        again = _repeated(digests)
        for row in np.flatnonzero(known | again):
            before = ids.index(ids[row])
            earlier = first + before if before < row else self._row_of(ids[row])
            if earlier is not None:
                raise ValueError(
                    f"{self.source}, row {first + row + 1}: the id {ids[row]!r} was used before, in row {earlier + 1}; "
                    "ids must be unique"
                )
        self._ids = np.sort(np.concatenate([self._ids, digests]), kind="stable")

    def commit(self) -> int:
        """Make finished shards that follow on the rows of the index part of it; the number of its rows.

        Raises:
            ValueError: an id that was used before, or a damaged shard; what came before it is part of the index.
        """
        finished = self.shards.finished()
        while (start := self.manifest.rows) in finished:
            shard = PackedIndex.open(self.shards.file(start))
            self.note_ids(shard.ids(), start)
            name = segment_name(self.manifest.number + 1)
            with changing(self.index, self.manifest.number):
                for suffix in SUFFIXES:
                    _put(self.shards.file(start, suffix), self.index / f"{name}{suffix}")
                manifest = replace(
                    self.manifest,
                    number=self.manifest.number + 1,
                    segments=(*self.manifest.segments, SegmentEntry(name, len(shard))),
                )
                manifest.write(self.index)
            self.manifest = manifest
            self.shards.remove(start)
        return self.manifest.rows

    def clear(self) -> None:
        """Remove what is left of the work when everything is part of the index."""
        shutil.rmtree(self.shards.path)

    def close(self) -> None:
        """Let others encode into the folder."""
        self._lock.release()

    def _row_of(self, id_: str) -> int | None:
        """Where the index has an id; None where only its digest is that of another one."""
        start = 0
        for segment in self.manifest.segments:
            ids = PackedIndex.open(self.index / f"{segment.name}.safetensors").ids()
            with suppress(ValueError):
                return start + ids.index(id_)
            start += len(ids)
        return None


def _repeated(digests: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Where a value is that came before."""
    _, firsts = np.unique(digests, return_index=True)
    again = np.ones(len(digests), dtype=bool)
    again[firsts] = False
    return again


def _put(file: Path, name: Path) -> None:
    """Let a file that never changes be there under another name too."""
    name.unlink(missing_ok=True)  # of a change that was interrupted
    try:
        os.link(file, name)
    except OSError:  # a file system without links
        shutil.copyfile(file, name)
        to_disk(name)
