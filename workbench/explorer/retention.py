"""Scores against bytes per vector, read from results files.

Two kinds are understood, of two formats or more: what `bitembed evaluate` writes, and what
`kernels/benchmarks/storage_formats.py` does.
"""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from bitembed_core import StorageFormat
from bitembed_core.files import read_json
from bitembed_core.storage.precisions import is_precision

Base = Literal["float32", "teacher"]
ALL_TYPES = "mean"  # the kind of a score that is the mean over all types of tasks


@dataclass(frozen=True)
class StoredScore:
    """How a model does on one type of task when its vectors are stored in one way.

    Args:
        model: as the file names it.
        kind: type of the tasks ("retrieval", "sts", ...), or ALL_TYPES.
        way: how vectors are stored and compared, such as "int8, float queries".
        bytes_per_vector: scale included.
        score: mean main score of the tasks, 0 to 100.
        float32: that of the same model's vectors in float32; float16 where only that was measured.
        teacher: that of its teacher; None where there was none.
    """

    model: str
    kind: str
    way: str
    bytes_per_vector: float
    score: float
    float32: float | None
    teacher: float | None

    def retention(self, base: Base) -> float | None:
        """The share of the score of `base` that is left; None where there is none, or it is not positive."""
        whole = self.float32 if base == "float32" else self.teacher
        return self.score / whole if whole is not None and whole > 0 else None


def find_results(specs: Iterable[str]) -> dict[str, list[StoredScore]]:
    """The scores of every results file that is named, or matched by a pattern, by the shortest name that tells it apart.

    Files that a pattern matches are passed over when they hold something else.

    Raises:
        FileNotFoundError: a file that is named does not exist.
        ValueError: a file that is named holds no results.
    """
    found = {}
    for spec in specs:
        if not glob.has_magic(spec):
            found[spec] = read_scores(spec)
            continue
        for path in sorted(glob.glob(spec)):
            content = read_json(path)
            if _is_evaluation(content) or _is_format_table(content):
                found[path] = read_scores(path)
    names = short_names(list(found))
    return {names[path]: rows for path, rows in found.items()}


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """For each path its last parts, as many as tell all of them apart, without the suffix."""
    parts = {path: Path(path).with_suffix("").parts for path in paths}
    for depth in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {path: "/".join(part[-depth:]) for path, part in parts.items()}
        if len(set(names.values())) == len(paths):
            return names
    return {path: path for path in paths}


def read_scores(path: str | Path) -> list[StoredScore]:
    """All scores of one results file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no results file {path}; `bitembed evaluate --out {path}` writes one"
        )
    content = read_json(path)
    if _is_evaluation(content):
        return list(_of_evaluation(content))
    if _is_format_table(content):
        return list(_of_format_table(content))
    raise ValueError(
        f"{path} holds no scores by storage format, or of one format only: expected results of `bitembed evaluate`, or of "
        "kernels/benchmarks/storage_formats.py"
    )


def frontier(sizes: Sequence[float], values: Sequence[float]) -> list[int]:
    """The points that no other one beats, from small to large: none is both as small and better, or smaller and as good."""
    order = sorted(range(len(sizes)), key=lambda index: (sizes[index], -values[index]))
    best, kept = -float("inf"), []
    for index in order:
        if values[index] > best:
            best = values[index]
            kept.append(index)
    return kept


def _is_evaluation(content: Any) -> bool:
    complete = isinstance(content, dict) and {"model", "mean", "tasks", "dimension"} <= content.keys()
    return (
        complete
        and isinstance(content["mean"], dict)
        and len(list(filter(is_precision, content["mean"]))) > 1
    )


def _is_format_table(content: Any) -> bool:
    formats = content.get("formats") if isinstance(content, dict) else None
    return isinstance(formats, dict) and "float32" in formats


def _of_evaluation(results: dict[str, Any]) -> Iterator[StoredScore]:
    by_type = {ALL_TYPES: results["mean"], **results.get("mean_by_type", {})}
    for kind, scores in by_type.items():
        own = scores.get("float32", scores.get("float16"))
        for precision in filter(is_precision, scores):
            size = StorageFormat(precision, results["dimension"]).bytes_per_vector
            yield StoredScore(
                results["model"],
                kind,
                precision + (_searched(results, precision) if kind == "retrieval" else ""),
                size,
                100 * scores[precision],
                None if own is None else 100 * own,
                100 * scores["teacher"] if "teacher" in scores else None,
            )


def _searched(results: dict[str, Any], precision: str) -> str:
    queries = "float queries" if "floating point" in results.get("scoring", "") else "symmetric"
    index = results.get("retrieval_index", {})
    again = f", rescored with {index['rescore']}" if precision in index.get("rescored", ()) else ""
    return f", {queries}{again}"


def _of_format_table(results: dict[str, Any]) -> Iterator[StoredScore]:
    """Rows of nDCG@10 by retrieval task, 0 to 100."""
    means = {way: mean(row["ndcg_at_10"].values()) for way, row in results["formats"].items()}
    for way, row in results["formats"].items():
        yield StoredScore(
            results["model"], "retrieval", way, row["bytes_per_vector"], means[way], means["float32"], None
        )
