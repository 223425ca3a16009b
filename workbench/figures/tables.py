"""Results as tables: the scores of every task, and what the nearest neighbours of a query look like."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from bitembed_core import BitEmbedder
from bitembed_core.storage.precisions import is_precision
from workbench.figures.html import Html, Row, table
from workbench.figures.precision import COLUMN_LABELS, Results, precisions_of, references_of
from workbench.figures.theme import TASK_TYPE_LABELS


class Neighbours(NamedTuple):
    """The nearest texts of a query, best first, with their cosine similarities."""

    query: str
    texts: Sequence[str]
    scores: Sequence[float]


def find_neighbours(
    embedder: BitEmbedder, queries: Sequence[str], texts: Sequence[str], top: int = 3
) -> list[Neighbours]:
    """For each query the `top` nearest of `texts` by cosine, with the model's prompts for queries and documents."""
    scores_QN = embedder.encode_query(queries) @ embedder.encode_document(texts).T
    best_QK = np.argsort(-scores_QN, axis=1, kind="stable")[:, :top]
    return [
        Neighbours(query, [texts[index] for index in best], [float(scores[index]) for index in best])
        for query, scores, best in zip(queries, scores_QN, best_QK, strict=True)
    ]


def score_table(results: Results) -> Html:
    """Main scores (x 100) by task and column: teacher, baselines, and every precision.

    Each type of task is headed by its mean; below all are the mean over types, and that mean in percent of
    the teacher's and of the model's own float16.
    """
    columns = [*references_of(results), *precisions_of(results)]
    types = results.get("task_types", {})
    by_type: Mapping[str, Mapping[str, float]] = results.get("mean_by_type", {"": {}})
    rows: list[Row] = []
    for kind, means in by_type.items():
        tasks = [name for name in results["tasks"] if types.get(name, "") == kind]
        if kind:
            cells = [_points(means, column) for column in columns] if len(tasks) > 1 else [""] * len(columns)
            rows.append(Row([TASK_TYPE_LABELS.get(kind, kind), *cells], "group"))
        rows += [
            Row([name, *(_points(results["tasks"][name], column) for column in columns)]) for name in tasks
        ]
    mean = results["mean"]
    label = f"Mean over {len(by_type)} types" if len(by_type) > 1 else "Mean"
    rows.append(Row([label, *(_points(mean, column) for column in columns)], "total"))
    if "teacher" in mean:
        rows.append(
            Row(["% of the teacher", *(_share(mean, column, "teacher") for column in columns)], "total")
        )
    if "float16" in mean:
        own = [_share(mean, column, "float16") if is_precision(column) else "" for column in columns]
        rows.append(Row(["% of own float16", *own], "total"))
    note = "Main score of each task as mteb defines it, times 100."
    caps = results.get("caps", {})
    if caps:
        kept = "; ".join(f"{name} {cap}" for name, cap in caps.items())
        note += f" Shortened for time, always to the same rows: {kept}."
    return table(["Task", *(COLUMN_LABELS.get(column, column) for column in columns)], rows, note=note)


def _points(scores: Mapping[str, float], column: str) -> str:
    return f"{100 * scores[column]:.2f}" if column in scores else "-"


def _share(scores: Mapping[str, float], column: str, base: str) -> str:
    whole = scores[base]
    return f"{100 * scores[column] / whole:.1f} %" if column in scores and whole > 0 else "-"


def nearest_neighbours(
    before: Sequence[Neighbours],
    after: Sequence[Neighbours],
    *,
    untrained: Sequence[Neighbours] | None = None,
) -> Html:
    """Cards, one per query: its neighbours by the original model, without training, and by the trained model.

    A text that the original model also lists is marked, so that agreement is seen at a glance. All sequences
    must hold the same queries in the same order; ValueError otherwise.
    """
    columns = {"Original model": before}
    if untrained is not None:
        columns["Ternary, before training"] = untrained
    columns["Ternary, trained"] = after
    return neighbours_side_by_side(columns, "the original model")


def neighbours_side_by_side(
    columns: Mapping[str, Sequence[Neighbours]],
    reference: str,
    name_lost: bool = False,
    characters: int = 180,
) -> Html:
    """Cards, one per query, with a list of neighbours for every column; the first column is what others are compared with.

    Args:
        columns: neighbours by heading, of the same queries in the same order; ValueError otherwise.
        reference: what the note calls the first column.
        name_lost: under each list, name the texts of the first column that it lacks.
        characters: of each text that are shown.
    """
    (first, answers_of_first), *_ = columns.items()
    for name, answers in columns.items():
        if [answer.query for answer in answers] != [answer.query for answer in answers_of_first]:
            raise ValueError(f"the queries of '{name}' differ from those of '{first}'")
    cards = []
    for index, expected in enumerate(answers_of_first):
        lists = "".join(
            _column(name, answers[index], expected, name_lost, characters)
            for name, answers in columns.items()
        )
        query = f"<p class='query'>{escape(expected.query)}</p>"
        cards.append(f"<div class='card'>{query}<div class='columns'>{lists}</div></div>")
    note = f"&#10003; {escape(reference)} lists this text too. Numbers are cosine similarities."
    body = f"<p class='note'>{note}</p><div class='cards'>{''.join(cards)}</div>"
    return Html(f"<div class='bitembed'>{body}</div>")


def _column(name: str, answer: Neighbours, reference: Neighbours, name_lost: bool, characters: int) -> str:
    agreeing = [text in reference.texts for text in answer.texts]
    heading = name if answer is reference else f"{name}: {sum(agreeing)} of {len(answer.texts)} agree"
    items = "".join(
        f"<li{'' if agrees else ' class=other'}>"
        f"<span class='mark'>{'&#10003;' if agrees and answer is not reference else ''}</span>"
        f"<span class='text'>{escape(_shorten(text, characters))}</span><span class='score'>{score:.2f}</span></li>"
        for text, score, agrees in zip(answer.texts, answer.scores, agreeing, strict=True)
    )
    lost = [
        f"number {place}, {_shorten(text, 60)}"
        for place, text in enumerate(reference.texts, start=1)
        if name_lost and text not in answer.texts
    ]
    below = f"<p class='note'>lost: {escape('; '.join(lost))}</p>" if lost else ""
    return f"<div class='column'><h4>{escape(heading)}</h4><ol>{items}</ol>{below}</div>"


def _shorten(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3].rsplit(" ", 1)[0] + " ..."
