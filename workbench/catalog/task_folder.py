"""Evaluation tasks from a folder: `sts_*.jsonl`, `cls_*.jsonl`, `clu_*.jsonl` and BEIR-like `ret_*/` folders.

sts_*.jsonl   {s1, s2, score, subset?}
cls_*.jsonl   {text, label, split}, split "train" or "test"
clu_*.jsonl   {text, label}
ret_*/        corpus.jsonl {_id, text, title?}, queries.jsonl {_id, text},
              qrels.tsv: query id, document id, relevance; a header line is allowed
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from workbench.catalog.rows import Row, read_rows, text_field
from workbench.catalog.task_data import (
    ClassificationData,
    ClusteringData,
    RetrievalData,
    StsData,
    TaskData,
)
from workbench.catalog.tasks import TaskEntry, TaskType

logger = logging.getLogger("bitembed")

T = TypeVar("T")

ONLY_SUBSET = "all"


def read_task_folder(folder: str | Path) -> list[TaskEntry]:
    """The tasks of a folder by name, already read, so that faults show at once.

    FileNotFoundError when the folder or one of a task's files is missing; ValueError names the file and line
    of a broken or incomplete row, of qrels that name unknown ids, and of a folder without tasks.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of evaluation tasks: it does not exist")
    entries = [_entry(path) for path in sorted(folder.iterdir()) if _is_task(path)]
    if not entries:
        raise ValueError(
            f"{folder} holds no evaluation tasks: expected sts_*.jsonl, cls_*.jsonl, clu_*.jsonl or ret_*/"
        )
    return entries


def _is_task(path: Path) -> bool:
    if path.is_dir():
        return path.name.startswith("ret_")
    return path.suffix == ".jsonl" and path.name.startswith(("sts_", "cls_", "clu_"))


def _entry(path: Path) -> TaskEntry:
    task_type, read = READERS[path.name[:4]]
    data = read(path)
    return TaskEntry(path.stem, task_type, str(path), "the user's own", lambda: data)


def _read_sts(path: Path) -> StsData:
    rows = []
    for place, row in read_rows(path):
        subset = text_field(row, "subset", place) if "subset" in row else ONLY_SUBSET
        rows.append(
            (_evaluated(row, "s1", place), _evaluated(row, "s2", place), _number(row, "score", place), subset)
        )
    return StsData(rows)


def _read_classification(path: Path) -> ClassificationData:
    data = ClassificationData([], [])
    for place, row in read_rows(path):
        split = text_field(row, "split", place)
        if split not in ("train", "test"):
            raise ValueError(f"{place}: `split` must be 'train' or 'test', got {split!r}")
        rows = data.train if split == "train" else data.test
        rows.append((_evaluated(row, "text", place), _label(row, place)))
    for split in ("train", "test"):
        if not getattr(data, split):
            raise ValueError(
                f"{path} has no rows with split {split!r}: a classification task needs both, a classifier is "
                "fitted on 'train' and measured on 'test'"
            )
    return data


def _read_clustering(path: Path) -> ClusteringData:
    rows = [(_evaluated(row, "text", place), _label(row, place)) for place, row in read_rows(path)]
    return ClusteringData([text for text, _ in rows], [label for _, label in rows])


def _read_retrieval(folder: Path) -> RetrievalData:
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} lacks {name}: a retrieval task is a folder of corpus.jsonl, queries.jsonl and "
                "qrels.tsv (query id, document id and relevance, tab-separated)"
            )
    corpus = _by_id(folder / "corpus.jsonl", _titled_text)
    queries = _by_id(folder / "queries.jsonl", lambda row, place: _evaluated(row, "text", place))
    qrels: dict[str, dict[str, int]] = {}
    for place, query, document, score in _qrels_rows(folder / "qrels.tsv"):
        if query not in queries:
            raise ValueError(f"{place}: query {query!r} is not in queries.jsonl")
        if document not in corpus:
            raise ValueError(f"{place}: document {document!r} is not in corpus.jsonl")
        qrels.setdefault(query, {})[document] = score
    if not qrels:
        raise ValueError(f"{folder / 'qrels.tsv'} holds no judgements")
    unjudged = len(queries) - len(qrels)
    if unjudged:
        logger.warning("%s: %d queries have no line in qrels.tsv and are not asked", folder, unjudged)
    return RetrievalData(corpus, {query: queries[query] for query in queries if query in qrels}, qrels)


READERS: Mapping[str, tuple[TaskType, Callable[[Path], TaskData]]] = {
    "ret_": ("retrieval", _read_retrieval),
    "sts_": ("sts", _read_sts),
    "cls_": ("classification", _read_classification),
    "clu_": ("clustering", _read_clustering),
}


def _by_id(path: Path, read: Callable[[Row, str], T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for place, row in read_rows(path):
        key = str(row["_id"]) if isinstance(row.get("_id"), int) else text_field(row, "_id", place)
        if key in found:
            raise ValueError(f"{place}: `_id` {key!r} occurs twice")
        found[key] = read(row, place)
    return found


def _titled_text(row: Row, place: str) -> tuple[str, str]:
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise ValueError(f"{place}: field `title` must be a text, got {type(title).__name__}")
    return title, _evaluated(row, "text", place)


def _evaluated(row: Row, field: str, place: str) -> str:
    """A text to embed. Published corpora hold empty ones, and a score counts them like any other."""
    return text_field(row, field, place, may_be_empty=True)


def _qrels_rows(path: Path) -> Iterator[tuple[str, str, str, int]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split("\t")
            if fields == [""]:
                continue
            place = f"{path}:{number}"
            if len(fields) != 3:
                raise ValueError(
                    f"{place}: expected query id, document id and relevance with tabs between, got {line!r}"
                )
            try:
                score = int(float(fields[2]))
            except ValueError:
                if number == 1:
                    continue
                raise ValueError(f"{place}: relevance must be a whole number, got {fields[2]!r}") from None
            yield place, fields[0], fields[1], score


def _label(row: Row, place: str) -> str:
    label = row.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        return str(label)
    return text_field(row, "label", place)


def _number(row: Row, field: str, place: str) -> float:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{place}: field `{field}` must be a number, got {value!r}")
    return float(value)
