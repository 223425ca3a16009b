"""Atomic writes: the old content or the new, never a mixture, and no litter."""

import shutil

import pytest

from bitembed_core.files import atomic_path, read_json, remove_half_written, write_json


def test_success_replaces_and_failure_leaves_the_old(tmp_path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    with atomic_path(tmp_path / "folder") as fresh:
        fresh.mkdir()
        (fresh / "one").touch()
    with atomic_path(tmp_path / "folder") as fresh:
        fresh.mkdir()
        (fresh / "two").touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "folder"]


def test_broken_json_is_named(tmp_path) -> None:
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(ValueError, match=r"b\.json is not valid JSON"):
        read_json(tmp_path / "b.json")


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path) -> None:
    for kept in (".hidden", ".cache.12345678/own", "a.json"):
        (tmp_path / kept).parent.mkdir(exist_ok=True)
        (tmp_path / kept).touch()
    writing = atomic_path(tmp_path / "folder")
    with writing as fresh:
        (fresh.parent / "old").mkdir()
        fresh.mkdir()
        (fresh / "half").touch()
        shutil.copytree(fresh.parent, tmp_path / ".folder.abcdefgh")
    remove_half_written(tmp_path, "model")
    assert (tmp_path / ".folder.abcdefgh").exists()
    remove_half_written(tmp_path, "fold*")
    remove_half_written(tmp_path / "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".cache.12345678", ".hidden", "a.json", "folder"]
