"""An index that grows and shrinks on disk, and is whole after a kill at any moment.

A folder of segments, each a `PackedIndex` of its own that never changes once it is written, and `index.json`, which says
which segments and which deletions count. A change writes new files first and then replaces `index.json` in one step; what an
interrupted change leaves behind is not named there and is removed by the next change.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.files import atomic_path, read_json
from workbench.search.approximate import SUFFIXES, approximate_search
from workbench.search.exact import best_columns
from workbench.search.index import Hit, PackedIndex, hits
from workbench.search.text_files import TextRow
from workbench.search.vector_search import NOTHING, Found, checked_queries

KIND, VERSION = "bitembed.index", 1
STATE_FILE, LOCK_FILE = "index.json", ".lock"
DELETIONS = pa.schema([("segment", pa.string()), ("row", pa.int64())])
LOCK_SECONDS = 10


class Segment(NamedTuple):
    """Rows that were added together; `live` is False where one was deleted."""

    name: str
    content: PackedIndex
    ids: list[str]
    live: NDArray[np.bool_]


class IndexFolder:
    """Stored texts and their embeddings; `open` or `create` one.

    Reading needs no lock: an open index stays what it was. One process at a time may change a folder; another one that
    has it open sees the change when it opens it again.
    """

    def __init__(self, path: Path, form: StorageFormat, segments: list[Segment], number: int) -> None:
        self.path, self.format = path, form
        self._segments, self._number = segments, number

    @classmethod
    def create(cls, path: str | os.PathLike[str], form: StorageFormat) -> Self:
        """An empty index in a folder that is absent or empty, but for what a kill left there.

        Raises:
            ValueError: there is something at `path`.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(not _is_hidden(entry) for entry in path.iterdir())):
            raise ValueError(f"{path} is there already; open it, or choose another name for the new index")
        path.mkdir(parents=True, exist_ok=True)
        index = cls(path, form, [], 0)
        with index._changing():
            index._commit()
        return index

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read an index; every file is checked.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: a file is damaged, or of a version that this program does not read.
        """
        path = Path(path)
        if not (path / STATE_FILE).is_file():
            raise FileNotFoundError(f"there is no index in {path}; make one with `bitembed encode`")
        state = read_json(path / STATE_FILE)
        if state.get("kind") != KIND or state.get("version") != VERSION:
            raise ValueError(f"{path / STATE_FILE} is no index of version {VERSION}")
        form = StorageFormat(state["format"], state["dim"])
        segments = [_read_segment(path, form, entry) for entry in state["segments"]]
        if state["deletions"] is not None:
            _mark(segments, path / state["deletions"])
        return cls(path, form, segments, state["number"])

    def __len__(self) -> int:
        return sum(int(segment.live.sum()) for segment in self._segments)

    @property
    def dimension(self) -> int:
        return self.format.dim

    @property
    def rows_written(self) -> int:
        """Rows that were ever added since the last `compact`, deleted ones included."""
        return sum(len(segment.ids) for segment in self._segments)

    def ids(self) -> list[str]:
        """Of all texts, in the order in which they were added."""
        return [
            id_
            for segment in self._segments
            for id_, live in zip(segment.ids, segment.live, strict=True)
            if live
        ]

    def rows(self, numbers: Sequence[int] | NDArray[np.integer] | None = None) -> Iterator[TextRow]:
        """Ids and texts of some rows, counted as `ids` has them; default all."""
        if numbers is None:
            for segment in self._segments:
                yield from segment.content.rows(np.flatnonzero(segment.live))
            return
        live = [np.flatnonzero(segment.live) for segment in self._segments]
        ends = np.cumsum([len(rows) for rows in live])
        for number in numbers:
            place = int(np.searchsorted(ends, number, side="right"))
            row = live[place][number - ends[place]]  # counted from the end
            yield from self._segments[place].content.rows([int(row)])

    def add(self, vectors: PackedEmbeddings, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Add rows; all of them or, after an error, none.

        Raises:
            ValueError: another format, an id that is there already or twice, or lengths that differ.
        """
        if vectors.format != self.format:
            raise ValueError(f"the index stores {self.format}, not {vectors.format}")
        known = set(self.ids())
        repeated = next((id_ for id_ in ids if id_ in known or known.add(id_)), None)  # type: ignore[func-returns-value]
        if repeated is not None:
            raise ValueError(f"the id {repeated!r} is there already, or twice among the new ones")
        new = PackedIndex(vectors, ids, texts)
        if not len(new):
            return
        with self._changing():
            segment = self._write_segment(new)
            self._segments = [*self._segments, segment]
            self._commit()

    def delete(self, ids: Collection[str]) -> None:
        """Delete rows; KeyError, and nothing is deleted, when an id is not there."""
        wanted = set(ids)
        if missing := wanted - set(self.ids()):
            raise KeyError(f"the index has no text with the id {sorted(missing)[0]!r}")
        with self._changing():
            self._segments = [
                segment._replace(live=segment.live & np.array([id_ not in wanted for id_ in segment.ids]))
                for segment in self._segments
            ]
            self._commit()

    def compact(self) -> None:
        """Write the live rows into one segment and free the room of the deleted ones."""
        with self._changing():
            parts = [(s, np.flatnonzero(s.live)) for s in self._segments if s.live.any()]
            if parts:
                rows = [s.content.rows(kept) for s, kept in parts]
                vectors = PackedEmbeddings.concatenate([s.content.vectors[kept] for s, kept in parts])
                joined = PackedIndex(
                    vectors, [r.id for part in rows for r in part], [r.text for part in rows for r in part]
                )
                self._segments = [self._write_segment(joined)]
            else:
                self._segments = []
            self._commit()

    def search(
        self, queries: NDArray[np.floating], top: int = 10, among: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """The `top` most similar texts of each query, best first; equal scores in the order of adding.

        Args:
            queries: floating point (q, d), or (d,) for one query.
            among: ids to search in; default all.

        Raises:
            ValueError: another dimension, NaN or infinity in a query, or `top` below 1.
        """
        rows = None
        if among is not None:
            wanted = set(among)
            rows = np.flatnonzero([id_ in wanted for id_ in self.ids()])
        return hits(self, self.best(np.atleast_2d(queries), top, rows))

    def best(
        self, queries: NDArray[np.floating], top: int = 10, among: NDArray[np.integer] | None = None
    ) -> Found:
        """See `VectorSearch.best`; rows are counted as `ids` has them."""
        queries = checked_queries(queries, self.dimension, top)
        parts, start = [Found.nothing(len(queries))], 0
        for segment in self._segments:
            live = np.flatnonzero(segment.live)
            chosen = (
                live if among is None else live[among[(among >= start) & (among < start + len(live))] - start]
            )
            if len(chosen):
                rows = None if len(chosen) == len(segment.ids) else chosen
                part = segment.content.best(queries, top, rows)
                numbers_QK = start + np.searchsorted(live, part.rows)
                parts.append(Found(np.where(part.rows == NOTHING, NOTHING, numbers_QK), part.scores))
            start += len(live)
        together = Found(np.hstack([part.rows for part in parts]), np.hstack([part.scores for part in parts]))
        return together.columns(best_columns(together.scores, top))

    def search_with(self, name: str) -> None:
        """Search every segment through an approximate index beside it, see `approximate_search`.

        A segment that is added later is searched exactly, until this is called again.
        """
        for segment in self._segments:
            content = segment.content
            content.searcher = approximate_search(
                self.path / f"{segment.name}.safetensors", content.vectors, name
            )

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone, from the state on disk being the one in memory; the one in memory is put back after an error."""
        lock = FileLock(self.path / LOCK_FILE, timeout=LOCK_SECONDS)
        before = (self._segments, self._number)
        try:
            with lock:
                if (self.path / STATE_FILE).is_file() and read_json(self.path / STATE_FILE)[
                    "number"
                ] != self._number:
                    raise ValueError(f"another process has changed {self.path}; open it again")
                yield
                self._remove_leftovers()
        except Timeout as error:
            raise OSError(f"another process is changing {self.path}") from error
        except BaseException:
            self._segments, self._number = before
            raise

    def _write_segment(self, index: PackedIndex) -> Segment:
        name = f"segment-{self._number + 1:06}"
        index.save(self.path / f"{name}.safetensors")
        for suffix in (".safetensors", ".parquet"):
            _to_disk(self.path / f"{name}{suffix}")
        return Segment(name, index, index.ids(), np.ones(len(index), dtype=bool))

    def _commit(self) -> None:
        """Make what is in memory what counts."""
        number = self._number + 1
        deleted = [
            (segment.name, int(row)) for segment in self._segments for row in np.flatnonzero(~segment.live)
        ]
        deletions = None
        if deleted:
            deletions = f"deletions-{number:06}.parquet"
            columns = dict(zip(DELETIONS.names, zip(*deleted, strict=True), strict=True))
            with atomic_path(self.path / deletions) as fresh:
                pq.write_table(pa.table(columns, schema=DELETIONS), fresh)
            _to_disk(self.path / deletions)
        state = {
            "kind": KIND,
            "version": VERSION,
            "format": self.format.name,
            "dim": self.format.dim,
            "number": number,
            "segments": [{"name": s.name, "rows": len(s.ids)} for s in self._segments],
            "deletions": deletions,
        }
        with atomic_path(self.path / STATE_FILE) as fresh:
            fresh.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            _to_disk(fresh)
        _to_disk(self.path)
        self._number = number

    def _remove_leftovers(self) -> None:
        """Files that `index.json` does not name: of interrupted changes, or replaced ones."""
        if not (self.path / STATE_FILE).is_file():
            return
        state = read_json(self.path / STATE_FILE)
        kept = {STATE_FILE, LOCK_FILE, state["deletions"]}
        kept |= {
            f"{s['name']}{suffix}"
            for s in state["segments"]
            for suffix in (".safetensors", ".parquet", *SUFFIXES)
        }
        for entry in self.path.iterdir():
            if entry.is_file() and entry.name not in kept:
                entry.unlink()
            elif entry.is_dir() and _is_hidden(entry):  # where a file was being written
                shutil.rmtree(entry)


def _is_hidden(entry: Path) -> bool:
    """Whether this is the lock, or a file or folder that `atomic_path` was writing in."""
    return entry.name.startswith(".")


def _read_segment(path: Path, form: StorageFormat, entry: dict[str, Any]) -> Segment:
    index = PackedIndex.open(path / f"{entry['name']}.safetensors")
    if index.vectors.format != form or len(index) != entry["rows"]:
        raise ValueError(f"{path / entry['name']} is not what {STATE_FILE} says of it: damaged")
    return Segment(entry["name"], index, index.ids(), np.ones(len(index), dtype=bool))


def _mark(segments: list[Segment], deletions: Path) -> None:
    """Take deleted rows out of `live`."""
    by_name = {segment.name: segment for segment in segments}
    try:
        table = pq.read_table(deletions)
        for name, row in zip(table["segment"].to_pylist(), table["row"].to_pylist(), strict=True):
            by_name[name].live[row] = False
    except (pa.ArrowInvalid, OSError, KeyError, IndexError) as error:
        raise ValueError(f"{deletions} is damaged or missing: {error}") from error


def _to_disk(path: Path) -> None:
    """Have the system write a file, or a folder's list of files, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
