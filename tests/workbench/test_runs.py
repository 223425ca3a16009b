"""The run store: what is in the folder, what is refused, how runs are found again."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bitembed_core.files import atomic_path
from workbench import runs
from workbench.config import option
from workbench.runs import Run, RunInUse, find_runs


@dataclass(frozen=True)
class WalkConfig:
    """A configuration."""

    steps: int = option(3, "steps")
    bits: tuple[int, ...] = option((1, 2), "bits")
    out: str = option("x", "where", changes_result=False)


def test_create_writes_what_was_asked_and_where_it_ran(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    assert Run.open(run.path) == run
    assert run.recipe == "walk"
    assert run.config == {"steps": 3, "bits": [1, 2], "out": "x"}
    assert len(run.key) == 64
    assert "torch" in json.loads((run.path / "environment.json").read_text())["packages"]
    assert not run.finished


def test_an_existing_run_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    run.log({"step": 1})
    with pytest.raises(FileExistsError, match="holds a run already: resume it, overwrite it"):
        Run.create(run.path, WalkConfig())
    assert run.records() == [{"step": 1}]
    assert Run.create(run.path, WalkConfig(steps=9), overwrite=True).records() == []
    assert run.config["steps"] == 9


def test_a_folder_that_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "model" / "config.json"
    precious.parent.mkdir()
    precious.write_text("{}")
    with pytest.raises(FileExistsError, match="is no run"):
        Run.create(precious.parent, WalkConfig(), overwrite=True)
    assert precious.read_text() == "{}"
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Run.open(precious.parent)


@pytest.mark.parametrize(
    "name", ["data.json", "records.jsonl", "layers.jsonl", "checkpoints/step-000003", "latent", "model"]
)
def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    (run.path / name).parent.mkdir(exist_ok=True)
    with atomic_path(run.path / name) as fresh:
        fresh.write_text("half")
        left = fresh.parent.with_suffix(".abcdefgh")
        shutil.copytree(fresh.parent, left)
    assert left.is_dir()
    with run.claimed():
        assert not left.exists()


def test_only_one_process_trains_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CLAIM_PATIENCE", 0.1)
    run = Run.create(tmp_path / "walk", WalkConfig())
    assert not run.under_way
    run.request_pause()
    with run.claimed():
        assert run.under_way
        assert not run.pause_requested
        with pytest.raises(RunInUse, match="another process is training"), run.claimed():
            pass
        with pytest.raises(RunInUse):
            run.check_config(WalkConfig())
        with pytest.raises(RunInUse):
            Run.create(run.path, WalkConfig(), overwrite=True)
        run.request_pause()
        assert run.pause_requested
    assert not run.under_way
    assert not run.pause_requested


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    code = "import sys; from workbench.runs import Run\nwith Run.open(sys.argv[1]).claimed(): print('in'); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-uc", code, str(run.path)], **pipes) as process:
        assert process.stdout.readline() == "in\n"
        assert run.under_way
        process.kill()
    assert not run.under_way


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert Run.create(tmp_path, WalkConfig()).exists


def test_a_record_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    for step in (1, 2, 3):
        run.log({"step": step, "loss": 1 / step})
    with (run.path / "records.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in run.records()] == [1, 2, 3]
    run.keep_records(2)
    run.log({"step": 3})
    assert [record["step"] for record in run.records()] == [1, 2, 3]


def test_checkpoints_are_ordered_by_number_and_pruned(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    assert run.checkpoints() == []
    for step in (5, 1000000, 20):
        run.checkpoint_path(step).mkdir(parents=True)
    assert [path.name for path in run.checkpoints()] == ["step-000005", "step-000020", "step-1000000"]
    run.prune_checkpoints(2)
    assert [path.name for path in run.checkpoints()] == ["step-000020", "step-1000000"]


def test_resuming_with_other_settings_names_them(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    run.check_config(WalkConfig(out="elsewhere"))
    with pytest.raises(ValueError, match=r"steps was 3, now 4; bits was \[1, 2\], now \[2\]"):
        run.check_config(WalkConfig(steps=4, bits=(2,)))
    with pytest.raises(FileNotFoundError, match="no run that could be resumed"):
        Run(tmp_path / "none").check_config(WalkConfig())


def test_a_run_is_resumed_although_settings_were_added_since(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "walk", WalkConfig())
    description = json.loads((run.path / "config.json").read_text())
    del description["config"]["bits"]
    (run.path / "config.json").write_text(json.dumps(description))
    run.check_config(WalkConfig())
    with pytest.raises(ValueError, match=r"bits was \[1, 2\], now \[2\]"):
        run.check_config(WalkConfig(bits=(2,)))


def test_runs_are_found_by_content(tmp_path: Path) -> None:
    first = Run.create(tmp_path / "a", WalkConfig())
    second = Run.create(tmp_path / "deep" / "b", WalkConfig(steps=4))
    same = Run.create(tmp_path / "c", replace(WalkConfig(), out="y"))
    assert {run.path for run in find_runs(tmp_path)} == {first.path, second.path, same.path}
    assert first.key == same.key != second.key
    assert {run.path for run in find_runs(tmp_path, first.key)} == {first.path, same.path}
    assert find_runs(tmp_path / "nothing here") == []
