"""An index that grows and shrinks on disk, and is whole after a kill at any moment.

A folder of segments, each a `PackedIndex` of its own that never changes once it is written, and `index.json`, which says
which segments and which deletions count. A change writes new files first and then replaces `index.json` in one step; what an
interrupted change leaves behind is not named there and is removed by the next change.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.files import atomic_path
from workbench.search.approximate import approximate_search
from workbench.search.exact import best_columns
from workbench.search.index import Hit, PackedIndex, hits
from workbench.search.manifest import (
    SHARDS_FOLDER,
    STATE_FILE,
    Manifest,
    SegmentEntry,
    changing,
    is_hidden,
    segment_name,
    to_disk,
)
from workbench.search.sidecar import SCHEMA, joined, joined_schema
from workbench.search.text_files import TextRow
from workbench.search.vector_search import NOTHING, Found, checked_queries

DELETIONS = pa.schema([("segment", pa.string()), ("row", pa.int64())])


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

    def __init__(self, path: Path, manifest: Manifest, segments: list[Segment]) -> None:
        self.path, self.format = path, manifest.format
        self._manifest, self._segments = manifest, segments

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], form: StorageFormat, encoding: Mapping[str, Any] | None = None
    ) -> Self:
        """An empty index in a folder that is absent or empty, but for what a kill left there.

        Args:
            encoding: see `Manifest`.

        Raises:
            ValueError: there is something at `path`.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(not is_hidden(entry) for entry in path.iterdir())):
            raise ValueError(f"{path} is there already; open it, or choose another name for the new index")
        path.mkdir(parents=True, exist_ok=True)
        index = cls(path, Manifest(form, encoding=encoding), [])
        with index._changing():
            shutil.rmtree(path / SHARDS_FOLDER, ignore_errors=True)
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
        manifest = Manifest.read(path)
        segments = [_read_segment(path, manifest.format, entry) for entry in manifest.segments]
        if manifest.deletions is not None:
            _mark(segments, path / manifest.deletions)
        return cls(path, manifest, segments)

    def __len__(self) -> int:
        return sum(int(segment.live.sum()) for segment in self._segments)

    @property
    def dimension(self) -> int:
        return self.format.dim

    @property
    def columns(self) -> pa.Schema:
        """Of all rows: id, text and metadata, whose types are joined as `joined_schema` has it."""
        return joined_schema([SCHEMA, *(segment.content.columns for segment in self._segments)])

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
        """Ids, texts and metadata of some rows, counted as `ids` has them; default all."""
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

    def batches(self, size: int) -> Iterator[tuple[PackedEmbeddings, list[TextRow]]]:
        """Vectors and texts in the order in which they were added, up to `size` at a time."""
        for segment in self._segments:
            yield from segment.content.batches(size, np.flatnonzero(segment.live))

    def add(
        self,
        vectors: PackedEmbeddings,
        ids: Sequence[str],
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows; all of them or, after an error, none.

        Args:
            metadata: see `PackedIndex`; the columns of the rows that are there already do not matter.

        Raises:
            ValueError: another format, an id that is there already or twice, or lengths that differ.
        """
        if vectors.format != self.format:
            raise ValueError(f"the index stores {self.format}, not {vectors.format}")
        known = set(self.ids())
        repeated = next((id_ for id_ in ids if id_ in known or known.add(id_)), None)  # type: ignore[func-returns-value]
        if repeated is not None:
            raise ValueError(f"the id {repeated!r} is there already, or twice among the new ones")
        new = PackedIndex(vectors, ids, texts, metadata)
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
        """Write the live rows into one segment and free the room of the deleted ones.

        A column of metadata that had several types becomes text, see `joined_schema`.
        """
        with self._changing():
            parts = [(s, np.flatnonzero(s.live)) for s in self._segments if s.live.any()]
            if parts:
                vectors = PackedEmbeddings.concatenate([s.content.vectors[kept] for s, kept in parts])
                table = joined([s.content.table.take(kept) for s, kept in parts])
                self._segments = [self._write_segment(PackedIndex.of_table(vectors, table))]
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
        before = (self._manifest, self._segments)
        try:
            with changing(self.path, self._manifest.number):
                yield
        except BaseException:
            self._manifest, self._segments = before
            raise

    def _write_segment(self, index: PackedIndex) -> Segment:
        name = segment_name(self._manifest.number + 1)
        index.save(self.path / f"{name}.safetensors")
        for suffix in (".safetensors", ".parquet"):
            to_disk(self.path / f"{name}{suffix}")
        return Segment(name, index, index.ids(), np.ones(len(index), dtype=bool))

    def _commit(self) -> None:
        """Make what is in memory what counts."""
        number = self._manifest.number + 1
        deleted = [
            (segment.name, int(row)) for segment in self._segments for row in np.flatnonzero(~segment.live)
        ]
        deletions = None
        if deleted:
            deletions = f"deletions-{number:06}.parquet"
            columns = dict(zip(DELETIONS.names, zip(*deleted, strict=True), strict=True))
            with atomic_path(self.path / deletions) as fresh:
                pq.write_table(pa.table(columns, schema=DELETIONS), fresh)
            to_disk(self.path / deletions)
        segments = tuple(SegmentEntry(s.name, len(s.ids)) for s in self._segments)
        manifest = replace(self._manifest, number=number, segments=segments, deletions=deletions)
        manifest.write(self.path)
        self._manifest = manifest


def _read_segment(path: Path, form: StorageFormat, entry: SegmentEntry) -> Segment:
    index = PackedIndex.open(path / f"{entry.name}.safetensors")
    if index.vectors.format != form or len(index) != entry.rows:
        raise ValueError(f"{path / entry.name} is not what {STATE_FILE} says of it: damaged")
    return Segment(entry.name, index, index.ids(), np.ones(len(index), dtype=bool))


def _mark(segments: list[Segment], deletions: Path) -> None:
    """Take deleted rows out of `live`."""
    by_name = {segment.name: segment for segment in segments}
    try:
        table = pq.read_table(deletions)
        for name, row in zip(table["segment"].to_pylist(), table["row"].to_pylist(), strict=True):
            by_name[name].live[row] = False
    except (pa.ArrowInvalid, OSError, KeyError, IndexError) as error:
        raise ValueError(f"{deletions} is damaged or missing: {error}") from error
