"""`index.json`: which files of an index folder count. It is replaced in one step, by one process at a time."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

from bitembed_core import StorageFormat
from bitembed_core.files import atomic_path, read_json
from workbench.search.approximate import SUFFIXES

KIND, VERSION, READABLE = "bitembed.index", 2, (1, 2)
STATE_FILE, LOCK_FILE, SHARDS_FOLDER = "index.json", ".lock", ".shards"
LOCK_SECONDS = 10


class SegmentEntry(NamedTuple):
    """Rows that were added together, deleted ones included."""

    name: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """What `index.json` says.

    Args:
        format: of all vectors.
        number: of changes so far.
        segments: in the order of their rows.
        deletions: the file of deleted rows, if there are any.
        encoding: what the rows were encoded from and how, for `encode_to_folder` to go on with the same; None for an
            index that was made otherwise.
    """

    format: StorageFormat
    number: int = 0
    segments: tuple[SegmentEntry, ...] = ()
    deletions: str | None = None
    encoding: Mapping[str, Any] | None = None

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @staticmethod
    def is_in(path: Path) -> bool:
        """Whether there is an index in a folder."""
        return (path / STATE_FILE).is_file()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Of the index in a folder; FileNotFoundError without one, ValueError for a version that is not read."""
        if not cls.is_in(path):
            raise FileNotFoundError(f"there is no index in {path}; make one with `bitembed encode`")
        state = read_json(path / STATE_FILE)
        if state.get("kind") != KIND or state.get("version") not in READABLE:
            raise ValueError(f"{path / STATE_FILE} is no index of version {' or '.join(map(str, READABLE))}")
        return cls(
            StorageFormat(state["format"], state["dim"]),
            state["number"],
            tuple(SegmentEntry(entry["name"], entry["rows"]) for entry in state["segments"]),
            state["deletions"],
            state.get("encoding"),
        )

    def write(self, path: Path) -> None:
        """Make this what counts."""
        state = {
            "kind": KIND,
            "version": VERSION,
            "format": self.format.name,
            "dim": self.format.dim,
            "number": self.number,
            "segments": [segment._asdict() for segment in self.segments],
            "deletions": self.deletions,
            "encoding": self.encoding,
        }
        with atomic_path(path / STATE_FILE) as fresh:
            fresh.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            to_disk(fresh)
        to_disk(path)


@contextmanager
def changing(path: Path, number: int) -> Iterator[None]:
    """Change a folder alone, from what it was after `number` changes; what the change leaves unnamed is removed.

    Raises:
        ValueError: it has been changed since.
        OSError: another process is changing it.
    """
    try:
        with FileLock(path / LOCK_FILE, timeout=LOCK_SECONDS):
            if Manifest.is_in(path) and Manifest.read(path).number != number:
                raise ValueError(f"another process has changed {path}; open it again")
            yield
            _remove_leftovers(path)
    except Timeout as error:
        raise OSError(f"another process is changing {path}") from error


def _remove_leftovers(path: Path) -> None:
    """Files that `index.json` does not name: of interrupted changes, or replaced ones."""
    if not Manifest.is_in(path):
        return
    manifest = Manifest.read(path)
    kept = {STATE_FILE, LOCK_FILE, manifest.deletions}
    for segment in manifest.segments:
        kept |= {f"{segment.name}{suffix}" for suffix in (".safetensors", ".parquet", *SUFFIXES)}
    for entry in path.iterdir():
        if entry.is_file() and entry.name not in kept:
            entry.unlink()
        elif entry.is_dir() and is_hidden(entry) and entry.name != SHARDS_FOLDER:
            shutil.rmtree(entry)  # where a file was being written


def is_hidden(entry: Path) -> bool:
    """Whether this is the lock, the unfinished shards, or something that `atomic_path` was writing in."""
    return entry.name.startswith(".")


def segment_name(number: int) -> str:
    """Of the segment that a change adds, which is the `number`th."""
    return f"segment-{number:06}"


def to_disk(path: Path) -> None:
    """Have the system write a file, or a folder's list of files, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
