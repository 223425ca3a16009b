"""What may stand after --tasks."""

import json

import mteb
import pytest

from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.tasks import TaskEntry
from workbench.evaluation import sources
from workbench.evaluation.sources import LocalSource, MtebSource, resolve_tasks, split_names


def names(specs, **options) -> list[str]:
    return [source.name for source in resolve_tasks(specs, **options)[0]]


@pytest.fixture
def small_catalog(monkeypatch, sts_entry, clustering_entry):
    """A catalog of two tasks, both in the suite, and one that this machine cannot have."""

    def refuse():
        raise PackageUnavailable("npm is not installed")

    away = TaskEntry("cls_away", "classification", "", "", refuse)
    tasks = {entry.name: entry for entry in (sts_entry, away, clustering_entry)}
    monkeypatch.setattr(sources, "TASKS", tasks)
    monkeypatch.setattr(sources, "OFFLINE_SUITE", tuple(tasks))


@pytest.mark.usefixtures("small_catalog")
def test_the_suite_leaves_out_what_cannot_be_had():
    found, left_out = resolve_tasks("offline")
    assert [source.name for source in found] == ["sts_small", "clu_small"]
    assert left_out == {"cls_away": "npm is not installed"}
    with pytest.raises(PackageUnavailable):
        resolve_tasks("cls_away")


@pytest.mark.usefixtures("small_catalog")
def test_names_are_joined_by_commas_and_counted_once():
    assert names("clu_small, sts_small,clu_small") == ["clu_small", "sts_small"]
    assert names(["offline", "sts_small"]) == ["sts_small", "clu_small"]


def test_commas_in_a_benchmark_name():
    assert split_names("offline, MTEB(eng, v2),STS12 ,") == ["offline", "MTEB(eng, v2)", "STS12"]


@pytest.mark.usefixtures("small_catalog")
def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'sts_smal'; did you mean 'sts_small'\?.*clu_small.*MTEB"):
        resolve_tasks("sts_smal")
    with pytest.raises(ValueError, match="no task given"):
        resolve_tasks(" , ")
    with pytest.raises(FileNotFoundError, match="no folder of tasks"):
        resolve_tasks("./nowhere/tasks")


def test_two_tasks_of_one_name_need_the_same_data(sts_entry, clustering_entry):
    other = TaskEntry(sts_entry.name, "clustering", "", "", clustering_entry.build)
    with pytest.raises(ValueError, match="two different tasks"):
        resolve_tasks([sts_entry, other])


def test_mteb_tasks_and_benchmarks_by_name():
    (source,) = resolve_tasks("STS12")[0]
    assert isinstance(source, MtebSource)
    assert source.type == "sts"
    assert source.fingerprint == "mteb/sts12-sts@" + source.task.metadata.revision
    benchmark = names("MTEB(eng, v2)")
    assert len(benchmark) == len(mteb.get_benchmark("MTEB(eng, v2)").tasks)
    with pytest.raises(ValueError, match="'STS12' is mteb's own"):
        resolve_tasks("STS12", cap=5)


def test_data_that_cannot_be_fetched_is_one_clear_error(monkeypatch):
    (source,) = resolve_tasks("STS12")[0]

    def refuse(*_, **__):
        raise RuntimeError("no route")

    monkeypatch.setattr(source.task, "load_data", refuse)
    with pytest.raises(OSError, match=r"'STS12' from the Hugging Face hub: no route"), source.opened():
        pass


def test_a_folder_of_tasks(tmp_path):
    rows = [{"s1": f"a {i}", "s2": f"b {i}", "score": i} for i in range(4)]
    (tmp_path / "sts_mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (source,) = resolve_tasks(tmp_path)[0]
    assert isinstance(source, LocalSource)
    assert (source.name, source.type) == ("sts_mine", "sts")
    assert names(str(tmp_path)) == ["sts_mine"]
    (tmp_path / "ret_mine").mkdir()
    (tmp_path / "ret_mine" / "corpus.jsonl").write_text('{"_id": "d", "text": "x"}\n')
    (tmp_path / "ret_mine" / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    with pytest.raises(FileNotFoundError, match=r"qrels\.tsv"):
        resolve_tasks(tmp_path)


@pytest.mark.parametrize("cap", [0, -3, {"max_queries": 0}])
def test_a_cap_keeps_something(sts_entry, cap):
    with pytest.raises(ValueError, match="at least 1"):
        resolve_tasks(sts_entry, cap)
