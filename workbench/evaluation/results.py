"""The results file and the retention table: plain dictionaries, plain arithmetic."""

import os
from collections.abc import Iterable
from typing import Any

from bitembed_core.files import write_json
from bitembed_core.storage.precisions import is_precision

Results = dict[str, Any]
Scores = dict[str, float]
REQUIRED = ("model", "teacher", "environment", "kernel", "tasks", "mean", "retention")


def mean_by_type(tasks: dict[str, Scores], task_types: dict[str, str]) -> dict[str, Scores]:
    """The mean score of every column over the tasks of each type."""
    return {
        kind: _mean(tasks[name] for name in tasks if task_types[name] == kind)
        for kind in dict.fromkeys(task_types[name] for name in tasks)
    }


def mean_over_types(tasks: dict[str, Scores], task_types: dict[str, str]) -> Scores:
    """The mean over types of the mean over each type's tasks, so that no type outweighs another."""
    return _mean(mean_by_type(tasks, task_types).values())


def retention(mean: Scores, reference: str) -> Scores:
    """mean / mean[reference] for the other columns; empty without that column or a positive mean."""
    base = mean.get(reference, 0.0)
    if base <= 0:
        return {}
    return {column: score / base for column, score in mean.items() if column != reference}


def summarize(tasks: dict[str, Scores], task_types: dict[str, str]) -> dict[str, Any]:
    """The part of a results file that follows from the scores: means and retentions.

    `retention` compares with the teacher; `retention_of_float16` compares the model's other precisions with
    its own float16, which is what storing fewer bits costs.
    """
    mean = mean_over_types(tasks, task_types)
    of_float16 = retention(mean, "float16")
    return {
        "mean": mean,
        "mean_by_type": mean_by_type(tasks, task_types),
        "retention": retention(mean, "teacher"),
        "retention_of_float16": {name: of_float16[name] for name in of_float16 if is_precision(name)},
    }


def card_results(results: Results) -> Results:
    """The part of `results` that a model card shows."""
    kept = {
        key: results[key]
        for key in ("tasks", "mean", "retention", "kernel", "commit", "caps")
        if key in results
    }
    return kept | {"environment": {"cpu": results["environment"].get("cpu")}}


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Write results.json, whole or not at all."""
    missing = [key for key in REQUIRED if key not in results]
    if missing:
        raise ValueError(f"these are no results, {', '.join(missing)} is missing")
    write_json(path, results)


def retention_table(results: Results) -> str:
    """The scores (times 100) as text: a row per task and what its cap kept, then means and retentions."""
    columns = list(results["mean"])
    rows = [["task", *columns, "cap"]]
    for name, scores in results["tasks"].items():
        rows.append([name, *_cells(scores, columns), results.get("caps", {}).get(name, "")])
    by_type = results.get("mean_by_type", {})
    if len(by_type) > 1:
        rows += [[f"mean {kind}", *_cells(scores, columns), ""] for kind, scores in by_type.items()]
    rows.append(["mean over types", *_cells(results["mean"], columns), ""])
    if results["retention"]:
        rows.append(["of the teacher", *_percent(results["retention"], columns), ""])
    if results.get("retention_of_float16"):
        rows.append(["of own float16", *_percent(results["retention_of_float16"], columns), ""])
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * max(map(len, lines))
    first_mean = 1 + len(results["tasks"])
    notes = [f"left out: {name} ({reason})" for name, reason in results.get("left_out", {}).items()]
    return "\n".join([lines[0], rule, *lines[1:first_mean], rule, *lines[first_mean:], *notes])


def _mean(rows: Iterable[Scores]) -> Scores:
    rows = list(rows)
    return {column: sum(row[column] for row in rows) / len(rows) for column in rows[0]} if rows else {}


def _cells(scores: Scores, columns: list[str]) -> list[str]:
    return [f"{100 * scores[column]:.2f}" if column in scores else "" for column in columns]


def _percent(shares: Scores, columns: list[str]) -> list[str]:
    return [f"{100 * shares[column]:.1f} %" if column in shares else "" for column in columns]


def _line(row: list[str], widths: list[int]) -> str:
    cells = [
        row[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
    ]
    return "  ".join(cells).rstrip()
