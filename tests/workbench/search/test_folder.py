"""The index folder: adding, deleting, searching, and what is left after a kill at any moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bitembed_core import StorageFormat
from workbench.search import IndexFolder, PackedIndex

FORM = StorageFormat("int8", 12)
# BITEMBED_KILLS=200 takes minutes; worth it whenever the code of the folder changes.
KILLS = int(os.environ.get("BITEMBED_KILLS", "6"))


def vectors(ids: list[str], form: StorageFormat = FORM):
    """Each id has its own vector, so that search can tell whether it is stored as it was."""
    rows = [
        np.random.default_rng(int.from_bytes(id_.encode(), "little")).standard_normal(form.dim) for id_ in ids
    ]
    return form.encode(np.array(rows, dtype=np.float32).reshape(-1, form.dim))


def added(folder: IndexFolder, ids: list[str]) -> None:
    folder.add(vectors(ids), ids, [f"text of {id_}" for id_ in ids])


@pytest.fixture
def folder(tmp_path) -> IndexFolder:
    index = IndexFolder.create(tmp_path / "index", FORM)
    added(index, ["a", "b", "c"])
    added(index, ["d", "e"])
    return index


def same(one: IndexFolder, other: IndexFolder) -> bool:
    return one.ids() == other.ids() and one.format == other.format


@pytest.mark.parametrize("name", ["int8", "int2-fitted", "float16"])
def test_search_is_that_of_one_index(name, tmp_path) -> None:
    form = StorageFormat(name, 12)
    ids = [f"id{i}" for i in range(40)]
    index = IndexFolder.create(tmp_path / "index", form)
    for start in range(0, 40, 9):
        part = ids[start : start + 9]
        index.add(vectors(part, form), part, part)
    whole = PackedIndex(vectors(ids, form), ids, ids)
    queries = np.random.default_rng(0).standard_normal((3, 12)).astype(np.float32)
    assert index.search(queries, 7) == whole.search(queries, 7)
    index.delete(ids[5:20])
    kept = ids[:5] + ids[20:]
    rest = PackedIndex(vectors(kept, form), kept, kept)
    again = IndexFolder.open(index.path)
    for version in (index, again):
        assert len(version) == 25
        assert version.search(queries, 30) == rest.search(queries, 30)
    assert again.search(queries, 3, among=ids) == rest.search(queries, 3)
    few = ids[3:9]
    expected = [[hit for hit in hits if hit.id in few] for hits in rest.search(queries, 30)]
    assert again.search(queries, 5, among=few) == expected
    assert again.search(queries, 5, among=[]) == [[], [], []]
    again.compact()
    assert again.rows_written == 25
    assert again.search(queries, 30) == rest.search(queries, 30)
    assert len(list(index.path.glob("*.safetensors"))) == 1


def test_an_id_can_come_back(folder) -> None:
    folder.delete(["b"])
    added(folder, ["b"])
    assert IndexFolder.open(folder.path).ids() == ["a", "c", "d", "e", "b"]


def test_what_is_refused_changes_nothing(folder) -> None:
    with pytest.raises(ValueError, match="'d' is there already"):
        added(folder, ["x", "d"])
    with pytest.raises(ValueError, match="twice"):
        added(folder, ["y", "y"])
    with pytest.raises(ValueError, match="stores StorageFormat"):
        folder.add(vectors(["z"], StorageFormat("binary", 12)), ["z"], ["z"])
    with pytest.raises(KeyError, match="'q'"):
        folder.delete(["a", "q"])
    with pytest.raises(ValueError, match="is there already"):
        IndexFolder.create(folder.path, FORM)
    with pytest.raises(ValueError, match="queries must be"):
        folder.search(np.ones(5, dtype=np.float32))
    with pytest.raises(FileNotFoundError, match="no index"):
        IndexFolder.open(folder.path / "nowhere")
    assert folder.ids() == IndexFolder.open(folder.path).ids() == ["a", "b", "c", "d", "e"]


def test_everything_deleted(folder) -> None:
    folder.delete(folder.ids())
    assert folder.search(np.ones((2, 12), dtype=np.float32)) == [[], []]
    folder.compact()
    assert IndexFolder.open(folder.path).rows_written == 0
    added(folder, ["new"])
    assert IndexFolder.open(folder.path).ids() == ["new"]


def test_damage_is_noticed(folder) -> None:
    folder.delete(["c"])
    for file in sorted(folder.path.glob("*.*")):
        if file.suffix not in (".safetensors", ".parquet", ".json"):
            continue
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"damaged|JSON|belong"):
            IndexFolder.open(folder.path)
        file.unlink()
        with pytest.raises((ValueError, FileNotFoundError)):
            IndexFolder.open(folder.path)
        file.write_bytes(content)
    assert IndexFolder.open(folder.path).ids() == ["a", "b", "d", "e"]


def test_a_stale_copy_cannot_write(folder) -> None:
    other = IndexFolder.open(folder.path)
    other.delete(["a"])
    with pytest.raises(ValueError, match="another process has changed"):
        added(folder, ["late"])
    assert folder.ids() == ["a", "b", "c", "d", "e"]
    assert IndexFolder.open(folder.path).ids() == ["b", "c", "d", "e"]


def test_leftovers_go_with_the_next_change(folder) -> None:
    (folder.path / "segment-000099.safetensors").write_bytes(b"half")
    (folder.path / ".index.json.x1").mkdir()
    (folder.path / ".index.json.x1" / "new").write_text("{")
    assert same(IndexFolder.open(folder.path), folder)
    added(folder, ["f"])
    assert not (folder.path / "segment-000099.safetensors").exists()
    assert not (folder.path / ".index.json.x1").exists()


def test_an_index_can_be_made_where_a_kill_left_none(tmp_path) -> None:
    (tmp_path / "index" / ".index.json.x1").mkdir(parents=True)
    (tmp_path / "index" / ".lock").touch()
    added(IndexFolder.create(tmp_path / "index", FORM), ["a"])
    assert IndexFolder.open(tmp_path / "index").ids() == ["a"]
    assert not (tmp_path / "index" / ".index.json.x1").exists()


CHANGES = """
import sys
sys.path.insert(0, {here!r})
from test_folder import changes
changes({path!r}, {seed})
"""


def plan(seed: int) -> list[tuple[str, list[str]]]:
    """A random sequence of changes and the ids they concern."""
    generator, present, steps = random.Random(seed), [], []
    for step in range(200):
        kind = generator.choice(["add", "add", "delete", "compact"]) if present else "add"
        if kind == "add":
            ids = [f"{step}-{i}" for i in range(generator.randint(1, 300))]
            present += ids
        else:
            ids = generator.sample(present, generator.randint(1, len(present))) if kind == "delete" else []
            present = [id_ for id_ in present if id_ not in set(ids)]
        steps.append((kind, ids))
    return steps


def apply(kind: str, ids: list[str], present: list[str]) -> list[str]:
    return present + ids if kind == "add" else [id_ for id_ in present if id_ not in set(ids)]


def changes(path: str, seed: int) -> None:
    """The victim's side: make the changes, saying which one begins."""
    index = IndexFolder.open(path)
    for number, (kind, ids) in enumerate(plan(seed)):
        print(number, flush=True)
        if kind == "add":
            added(index, ids)
        elif kind == "delete":
            index.delete(ids)
        else:
            index.compact()


def test_killed_at_any_moment(tmp_path) -> None:
    generator = random.Random(0)
    for seed in range(KILLS):
        path = tmp_path / "victim"
        IndexFolder.create(path, FORM)
        code = CHANGES.format(here=str(Path(__file__).parent), path=str(path), seed=seed)
        victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        begun = int(victim.stdout.readline())
        time.sleep(generator.uniform(0, 0.4))
        victim.send_signal(signal.SIGKILL)
        rest = victim.stdout.read().split()
        victim.wait()
        begun = int(rest[-1]) if rest else begun
        before: list[str] = []
        for kind, ids in plan(seed)[:begun]:
            before = apply(kind, ids, before)
        after = apply(*plan(seed)[begun], before)
        index = IndexFolder.open(path)
        assert index.ids() in (before, after), seed
        if index.ids():
            probe = vectors(index.ids()).decode()[:5]
            assert [hits[0].id for hits in index.search(probe, 1)] == index.ids()[:5]
        added(index, ["afterwards"])
        assert IndexFolder.open(path).ids() == index.ids()
        state = json.loads((path / "index.json").read_text())
        files = {entry.name for entry in path.iterdir()} - {".lock", "index.json"}
        assert files <= {
            f"{s['name']}{x}" for s in state["segments"] for x in (".safetensors", ".parquet")
        } | {state["deletions"]}
        shutil.rmtree(path)
