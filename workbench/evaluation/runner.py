"""Score an embedder with mteb's runner, at every storage precision, beside its teacher and other models."""

import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import datasets
import mteb
import numpy as np
import torch
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.abstask import AbsTask
from sklearn.exceptions import UndefinedMetricWarning
from threadpoolctl import threadpool_limits

from bitembed_core import BitEmbedder, StorageFormat
from bitembed_core.ops import library
from workbench.environment import environment
from workbench.evaluation.encoder import EmbeddingCache, MtebEncoder
from workbench.evaluation.results import Results, Scores, summarize
from workbench.evaluation.sources import Cap, Source, TaskSpec, resolve_tasks, rewind
from workbench.fingerprint import weights_fingerprint
from workbench.search.rescoring import OVERSAMPLING

SCORING = {
    False: "retrieval: packed queries with packed documents; other tasks: vectors decoded from packed codes (symmetric)",
    True: "retrieval: queries in floating point with packed documents; other tasks: vectors decoded from packed codes",
}
DEFAULT_PRECISIONS = ("float16", "int8", "int4", "int2", "binary")
BASELINE_PRECISION = "float16"
ROWS_PER_LOADER_BATCH = 1024
Progress = Callable[[str], None]
Columns = dict[str, MtebEncoder]


def evaluate(
    model: BitEmbedder,
    tasks: TaskSpec | Iterable[TaskSpec],
    precisions: Iterable[str] = DEFAULT_PRECISIONS,
    teacher: BitEmbedder | None = None,
    cap: Cap | None = None,
    *,
    progress: Progress | None = None,
    baselines: dict[str, BitEmbedder] | None = None,
    name: str = "model",
    teacher_name: str = "teacher",
    batch_size: int = 32,
    float_queries: bool = False,
    rescore: str | None = None,
    oversampling: int = OVERSAMPLING,
) -> Results:
    """mteb's main score of `model` on every task at every precision, as the dictionary of results.json.

    Args:
        model: the embedder; a text is encoded once and stored at each of `precisions`.
        tasks: see `resolve_tasks`: "offline", catalog names, folders, mteb tasks or benchmarks.
        precisions: columns of the table, each scored through packed bytes on both sides. Retrieval is scored by an exact
            search over the packed documents.
        teacher: another embedder for the column "teacher", at float16.
        cap: shorten local tasks, see `resolve_tasks`; what that kept is recorded under `caps`.
        progress: called with a line per scored column; there are also bars for long encodings then.
        baselines: more embedders by column name, each at float16 (for example "untrained").
        name, teacher_name: what the results call the two models.
        batch_size: texts per forward pass.
        float_queries: of retrieval tasks only the documents are stored; queries are compared as they are.
        rescore: in retrieval, a wider precision of the same documents that orders the best ten times `oversampling` of
            every narrower column.
        oversampling: documents that are rescored for each of ten hits.

    Raises:
        ValueError: an unknown precision or task, nothing to do or to rescore, a column name used twice, NaN embeddings,
            or a task that gives no number.
        OSError: the data of an mteb task cannot be fetched.
    """
    formats = storage_formats(precisions, model.dimension)
    rescored = narrower_formats(formats, rescore) if rescore is not None else []
    others = named_models(teacher, baselines or {}, formats)
    sources, left_out = resolve_tasks(tasks, cap)

    contestants: list[Columns] = []
    for column, embedder in others.items():
        cache = EmbeddingCache(embedder, batch_size, progress is not None)
        contestants.append({column: MtebEncoder(cache, BASELINE_PRECISION, column)})
    cache = EmbeddingCache(model, batch_size, progress is not None)
    contestants.append(
        {
            precision: MtebEncoder(
                cache,
                precision,
                name,
                float_queries,
                rescore if precision in rescored else None,
                oversampling,
            )
            for precision in formats
        }
    )

    started = time.perf_counter()
    scores: dict[str, Scores] = {}
    subsets: dict[str, dict[str, Scores]] = {}
    with preserved_random_state(), quiet_datasets():
        for source in sources:
            scores[source.name], by_subset = score_source(source, contestants, progress)
            if len(by_subset) > 1:
                subsets[source.name] = by_subset

    task_types = {source.name: source.type for source in sources}
    surroundings = environment()
    return {
        "model": name,
        "teacher": teacher_name if teacher is not None else None,
        "baselines": list(baselines or {}),
        "environment": surroundings,
        "commit": surroundings["commit"],
        "kernel": model.kernel,
        "device": str(model.device),
        "dimension": model.dimension,
        "max_length": model.max_length,
        "pooling": model.pooling,
        "prompts": dict(model.prompts),
        "batch_size": batch_size,
        "weights": weights_fingerprint(model),
        "scoring": SCORING[float_queries],
        "retrieval_index": retrieval_index(rescore, rescored, oversampling),
        "precisions": list(formats),
        "bytes_per_vector": {precision: form.bytes_per_vector for precision, form in formats.items()},
        "tasks": scores,
        "subsets": subsets,
        "task_types": task_types,
        "caps": {source.name: source.cap for source in sources if source.cap},
        "left_out": left_out,
        "fingerprints": {source.name: source.fingerprint for source in sources},
        **summarize(scores, task_types),
        "seconds": round(time.perf_counter() - started, 1),
    }


def storage_formats(precisions: Iterable[str], dimension: int) -> dict[str, StorageFormat]:
    """The formats by name, in the order given; ValueError for none at all or an unknown name."""
    if isinstance(precisions, str):
        precisions = precisions.split(",")
    formats = {precision: StorageFormat(precision, dimension) for precision in precisions}
    if not formats:
        raise ValueError("no precision given: name at least one, such as float16 or int8")
    return formats


def narrower_formats(formats: dict[str, StorageFormat], rescore: str) -> list[str]:
    """The precisions that `rescore` adds bytes to; ValueError when it is unknown or adds to none."""
    dimension = next(iter(formats.values())).dim
    wide = StorageFormat(rescore, dimension)
    narrower = [name for name, form in formats.items() if form.bytes_per_vector < wide.bytes_per_vector]
    if not narrower:
        raise ValueError(f"nothing to rescore: none of {', '.join(formats)} is narrower than {rescore}")
    return narrower


def retrieval_index(rescore: str | None, rescored: list[str], oversampling: int) -> dict[str, Any]:
    """What results say of the search that scored retrieval tasks."""
    found: dict[str, Any] = {
        "search": "exact, packed codes",
        "kernel": "native" if library.available() else "reference",
    }
    if rescore is not None:
        found |= {"rescore": rescore, "oversampling": oversampling, "rescored": rescored}
    return found


def named_models(
    teacher: BitEmbedder | None, baselines: dict[str, BitEmbedder], formats: dict[str, StorageFormat]
) -> dict[str, BitEmbedder]:
    """The other models by column; ValueError when a baseline takes the name of another column."""
    for column in baselines:
        if column in formats or column == "teacher":
            raise ValueError(
                f"the baseline {column!r} has the name of another column; choose a different one"
            )
    return {**({"teacher": teacher} if teacher is not None else {}), **baselines}


def score_source(
    source: Source, contestants: list[Columns], progress: Progress | None
) -> tuple[Scores, dict[str, Scores]]:
    """mteb's main score of one task by column, and the same by subset.

    A model's embeddings are forgotten when its columns are done, so memory holds those of one task and model.
    """
    scores: Scores = {}
    by_subset: dict[str, Scores] = {}
    with source.opened() as task:
        for columns in contestants:
            for column, encoder in columns.items():
                started = time.perf_counter()
                try:
                    scores[column], subsets = score_task(task, encoder)
                except ValueError as error:
                    raise ValueError(f"task {source.name!r}, column {column!r}: {error}") from error
                for subset, score in subsets.items():
                    by_subset.setdefault(subset, {})[column] = score
                if progress is not None:
                    seconds = time.perf_counter() - started
                    progress(f"{source.name}  {column}  {100 * scores[column]:.2f}  ({seconds:.1f} s)")
            for encoder in columns.values():
                encoder.cache.clear()
    return scores, by_subset


def score_task(task: AbsTask, encoder: MtebEncoder) -> tuple[float, dict[str, float]]:
    """mteb's main score of `encoder` on `task`, and the main score of each subset.

    No result is read from or written to mteb's cache. Outside retrieval, scikit-learn is kept to one thread:
    its problems here are small, and its threads slow each other down many times over on a busy machine.
    """
    rewind(task)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # of precision and recall, secondary scores
        if not isinstance(task, AbsTaskRetrieval):
            stack.enter_context(threadpool_limits(1))
        outcome = mteb.evaluate(
            encoder,
            task,
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"batch_size": ROWS_PER_LOADER_BATCH, "show_progress_bar": False},
        )
    (result,) = outcome.task_results
    score = float(result.get_score())
    if not math.isfinite(score):
        raise ValueError("the score is not a number; are all texts embedded alike, or all ratings the same?")
    rows = [row for split in result.scores.values() for row in split]
    return score, {row["hf_subset"]: float(row["main_score"]) for row in rows}


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """mteb seeds the global generators; a training run that is evaluated in between must not notice."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """No bar for every column that mteb maps over."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
