"""From what a person types after --tasks to tasks that can be run."""

import difflib
import logging
import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import mteb
import numpy as np
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate

from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.task_folder import read_task_folder
from workbench.catalog.tasks import OFFLINE_SUITE, TASKS, TaskData, TaskEntry, capped, fingerprint
from workbench.evaluation.local_tasks import local_task

logger = logging.getLogger("bitembed")

TaskSpec: TypeAlias = str | os.PathLike[str] | TaskEntry | AbsTask
Cap = int | Mapping[str, int]
CAPPED_BY_A_NUMBER = ("max_documents", "max_queries", "max_pairs", "max_test", "max_texts")


@dataclass(frozen=True)
class LocalSource:
    """A data set in memory, of the catalog or of a folder; `cap` says what a cap kept ("" for all)."""

    name: str
    type: str
    data: TaskData
    cap: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.data)

    @contextmanager
    def opened(self) -> Iterator[AbsTask]:
        yield local_task(self.name, self.data)


@dataclass(frozen=True)
class MtebSource:
    """A task of mteb's own, fetched from the hub when it is opened and let go afterwards."""

    task: AbsTask
    cap: str = ""

    @property
    def name(self) -> str:
        return self.task.metadata.name

    @property
    def type(self) -> str:
        return self.task.metadata.type.lower()

    @property
    def fingerprint(self) -> str:
        return ", ".join(
            f"{part.metadata.dataset['path']}@{part.metadata.dataset['revision']}"
            for part in parts(self.task)
        )

    @contextmanager
    def opened(self) -> Iterator[AbsTask]:
        already = [part for part in parts(self.task) if part.data_loaded]
        try:
            for part in parts(self.task):
                part.load_data()
        except Exception as error:
            raise OSError(
                f"mteb could not load the data of {self.name!r} from the Hugging Face hub: {error}"
            ) from error
        try:
            yield self.task
        finally:
            for part in parts(self.task):
                if part not in already:
                    part.unload_data()


Source = LocalSource | MtebSource


def parts(task: AbsTask) -> list[AbsTask]:
    """The tasks an aggregate is made of, or the task itself."""
    if isinstance(task, AbsTaskAggregate):
        return [part for member in task.metadata.tasks for part in parts(member)]
    return [task]


def rewind(task: AbsTask) -> None:
    """Start a task's random numbers over: mteb draws clustering samples from a generator that runs on, and
    every column of a table must be scored on the same ones."""
    for part in parts(task):
        part.rng_state = random.Random(part.seed)
        part.np_rng = np.random.default_rng(part.seed)


def resolve_tasks(
    specs: TaskSpec | Iterable[TaskSpec], cap: Cap | None = None
) -> tuple[list[Source], dict[str, str]]:
    """The tasks that `specs` name, and the reason for each task of the suite that this machine cannot have.

    A string is "offline" (the offline suite), a catalog name, a folder of tasks, or an mteb task or
    benchmark; several are joined by commas. Local data is read here, so that a mistake shows before hours of
    encoding. `cap` shortens local data: a number caps queries, documents, pairs, test texts and texts to
    cluster; a mapping holds arguments of `workbench.catalog.tasks.capped`.

    Raises:
        ValueError: nothing given, an unknown name, one name for different data, a cap on mteb's own task.
        FileNotFoundError: a folder that is not there.
        PackageUnavailable: a task named by itself that this machine cannot have, or the whole suite.
    """
    if isinstance(specs, str):
        specs = split_names(specs)
    elif isinstance(specs, os.PathLike | TaskEntry | AbsTask):
        specs = [specs]
    sources: dict[str, Source] = {}
    left_out: dict[str, str] = {}
    for spec in specs:
        found = _suite(cap, left_out) if spec == "offline" else _resolve(spec, cap)
        for source in found:
            known = sources.get(source.name)
            if known is not None and known.fingerprint != source.fingerprint:
                raise ValueError(f"two different tasks are called {source.name!r}; rename one of them")
            sources[source.name] = source
    if not sources:
        raise ValueError(f"no task given: name one or more of {_known()}")
    return list(sources.values()), left_out


def split_names(text: str) -> list[str]:
    """Split at commas outside parentheses, since a benchmark may be called `MTEB(eng, v2)`."""
    return [name.strip() for name in re.split(r",(?![^()]*\))", text) if name.strip()]


def _suite(cap: Cap | None, left_out: dict[str, str]) -> list[Source]:
    sources: list[Source] = []
    for name in OFFLINE_SUITE:
        try:
            sources.append(_local(TASKS[name], cap))
        except PackageUnavailable as reason:
            left_out[name] = str(reason)
            logger.warning("%s is left out: %s", name, reason)
    if not sources:
        raise PackageUnavailable(
            f"no task of the offline suite can be had here; {next(iter(left_out.values()))}"
        )
    return sources


def _resolve(spec: TaskSpec, cap: Cap | None) -> list[Source]:
    if isinstance(spec, TaskEntry):
        return [_local(spec, cap)]
    if isinstance(spec, AbsTask):
        return [_of_mteb(spec, cap)]
    if isinstance(spec, str) and spec in TASKS:
        return [_local(TASKS[spec], cap)]
    folder = Path(spec)
    if folder.is_dir():
        return [_local(entry, cap) for entry in read_task_folder(folder)]
    if not isinstance(spec, str) or "/" in spec or os.sep in spec:
        raise FileNotFoundError(f"there is no folder of tasks at {folder}")
    return [_of_mteb(task, cap) for task in _mteb_tasks(spec)]


def _local(entry: TaskEntry, cap: Cap | None) -> LocalSource:
    data, note = entry.load(), ""
    if cap is not None:
        limits = dict.fromkeys(CAPPED_BY_A_NUMBER, cap) if isinstance(cap, int) else cap
        if any(limit < 1 for limit in limits.values()):
            raise ValueError(f"a cap must be at least 1, got {cap}")
        data, note = capped(data, **limits)
    return LocalSource(entry.name, entry.type, data, note)


def _of_mteb(task: AbsTask, cap: Cap | None) -> MtebSource:
    if cap is not None:
        raise ValueError(
            f"a cap shortens local tasks only; {task.metadata.name!r} is mteb's own and has to stay whole"
        )
    return MtebSource(task)


def _mteb_tasks(name: str) -> list[AbsTask]:
    try:
        return list(mteb.get_benchmark(name).tasks)
    except KeyError:
        pass
    try:
        return [mteb.get_task(name)]
    except KeyError:
        pass
    near = difflib.get_close_matches(name, ["offline", *TASKS], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown task {name!r}{hint}; there are {_known()}")


def _known() -> str:
    return (
        f"offline (the suite), {', '.join(TASKS)}, a folder of tasks, "
        "or any task or benchmark of mteb by its name, such as STS12 or `MTEB(eng, v2)`"
    )
