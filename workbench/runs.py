"""The run store: one folder for a run, from which it can be understood, continued and found again.

runs/<name>/
    config.json        the recipe and its settings
    environment.json   versions and hardware
    data.json          the sources of examples, with their sizes and fingerprints
    records.jsonl      one record per training step
    layers.jsonl       now and then, how each layer fares
    checkpoints/       step-000123/, the newest few
    latent/            the trained embedder, exact, to train on from
    model/             the trained ternary embedder, packed
    results.json       what evaluation found
    lock               held by the process that trains here
    pause              there while somebody asks it to stop after its step
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from bitembed_core.files import atomic_path, read_json, remove_half_written, write_json
from workbench.config import result_fields
from workbench.environment import environment

# Seconds to wait for a lock, since whoever asks whether a run is under way holds it for an instant.
CLAIM_PATIENCE, LOOK_PATIENCE = 5.0, 0.05


class RunInUse(RuntimeError):
    """Another process trains in the run folder."""


@dataclass(frozen=True)
class Run:
    """A run folder. Only the main process of several creates it and writes to it."""

    path: Path

    @classmethod
    def create(cls, out: str | Path, config: Any, overwrite: bool = False) -> Self:
        """Make the folder of a new run with `config`, a dataclass.

        Raises:
            FileExistsError: there is a run in `out`, and `overwrite` is off; or there is something else.
            RunInUse: a process is training there.
        """
        run = cls(Path(out))
        run.check_free(overwrite)
        surroundings = environment()
        with atomic_path(run.path) as fresh:
            fresh.mkdir()
            description = {
                "recipe": type(config).__name__.removesuffix("Config").lower(),
                "key": content_key(config, surroundings["packages"]),
                "config": asdict(config),
            }
            write_json(fresh / "config.json", description)
            write_json(fresh / "environment.json", surroundings)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An existing run.

        Raises:
            FileNotFoundError: there is no run in `path`.
        """
        run = cls(Path(path))
        if not run.exists:
            raise FileNotFoundError(f"{path} holds no run: it lacks config.json or environment.json")
        return run

    def check_free(self, overwrite: bool) -> None:
        """Raise FileExistsError, or RunInUse, unless a new run may be created here."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not self.exists:
            raise FileExistsError(f"{self.path} exists and is no run; choose another folder for this one")
        if not overwrite:
            raise FileExistsError(
                f"{self.path} holds a run already: resume it, overwrite it, or choose another folder"
            )
        self._check_idle()

    @property
    def exists(self) -> bool:
        return all((self.path / name).is_file() for name in ("config.json", "environment.json"))

    @property
    def recipe(self) -> str:
        return read_json(self.path / "config.json")["recipe"]

    @property
    def config(self) -> dict[str, Any]:
        return read_json(self.path / "config.json")["config"]

    @property
    def key(self) -> str:
        """Hash of the settings that change results, and of the package versions."""
        return read_json(self.path / "config.json")["key"]

    @property
    def latent(self) -> Path:
        return self.path / "latent"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> bool:
        """Whether the trained embedder has been written."""
        return self.latent.is_dir()

    @property
    def under_way(self) -> bool:
        """Whether a process is training here. One that was killed is not: its lock went with it."""
        lock = self.path / "lock"
        if not lock.exists():
            return False
        try:
            with FileLock(lock, timeout=LOOK_PATIENCE, poll_interval=0.01):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written to
            return False

    def _check_idle(self) -> None:
        if self.under_way:
            raise RunInUse(f"another process is training in {self.path}: pause it first")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Inside, this process trains here, and no other can. What was asked of an earlier one is forgotten, and what it
        had half written when it was killed is removed.

        Raises:
            RunInUse: another process is training here.
        """
        with ExitStack() as held:
            try:
                held.enter_context(FileLock(self.path / "lock", timeout=CLAIM_PATIENCE))
            except Timeout as error:
                raise RunInUse(f"another process is training in {self.path}: pause it first") from error
            self._pause.unlink(missing_ok=True)
            for name in (
                "data.json",
                "records.jsonl",
                "layers.jsonl",
                "latent",
                "model",
                "checkpoints/step-*",
            ):
                remove_half_written((self.path / name).parent, Path(name).name)
            held.callback(self._pause.unlink, missing_ok=True)
            yield

    @property
    def _pause(self) -> Path:
        return self.path / "pause"

    @property
    def pause_requested(self) -> bool:
        return self._pause.exists()

    def request_pause(self) -> None:
        """Ask the process that trains here, whichever it is, to stop after its step and leave a checkpoint."""
        self._pause.touch()

    def check_config(self, config: Any) -> None:
        """Check that a run resumed with `config` gives what it would have given.

        Raises:
            FileNotFoundError: there is no run here.
            RunInUse: a process is training here.
            ValueError: `config` differs in the fields that are named.
        """
        if not self.exists:
            raise FileNotFoundError(f"{self.path} holds no run that could be resumed")
        self._check_idle()
        wanted, defaults = (json.loads(json.dumps(result_fields(c))) for c in (config, type(config)))
        own = defaults | self.config  # a setting that was added since had the value that it has by default
        changed = [
            f"{name} was {own[name]!r}, now {value!r}" for name, value in wanted.items() if own[name] != value
        ]
        if changed:
            raise ValueError(
                f"{self.path} was started with other settings, and cannot be resumed with these: "
                + "; ".join(changed)
            )

    def check_data(self, data: list[dict[str, Any]]) -> None:
        """Check that `data`, sources with their `name`, are those that the run began with, as far as it has kept them.

        Raises:
            ValueError: they are not.
        """
        path = self.path / "data.json"
        began = {source["name"]: source for source in read_json(path)} if path.exists() else None
        now = {source["name"]: source for source in data}
        if began is not None and began != now:
            changed = sorted(name for name in began | now if began.get(name) != now.get(name))
            raise ValueError(
                f"{self.path} began with other data, and cannot be resumed with these: "
                + "; ".join(f"{name} was {began.get(name)}, now {now.get(name)}" for name in changed)
            )

    def keep_data(self, data: list[dict[str, Any]]) -> None:
        """Write down what the run learns from, for `check_data`."""
        write_json(self.path / "data.json", data)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append `record` to records.jsonl; it is there when the call returns."""
        self._append("records.jsonl", record)

    def records(self) -> list[dict[str, Any]]:
        """All records; a last line that a crash cut short is left out."""
        return self._lines("records.jsonl")

    def log_layers(self, report: Mapping[str, Any]) -> None:
        """Append a report on the layers to layers.jsonl: step, since (the step after which counting began), and layers,
        by name, as `recipes.watch` measures them."""
        self._append("layers.jsonl", report)

    def layers(self) -> list[dict[str, Any]]:
        """All reports on the layers."""
        return self._lines("layers.jsonl")

    def keep_records(self, step: int) -> None:
        """Forget the records and reports after `step`, before training continues from there."""
        for name in ("records.jsonl", "layers.jsonl"):
            kept = [line for line in self._lines(name) if line["step"] <= step]
            with atomic_path(self.path / name) as fresh:
                fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            return []
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))

    def prune_checkpoints(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for folder in self.checkpoints()[:-keep]:
            shutil.rmtree(folder)


def content_key(config: Any, packages: Mapping[str, str | None]) -> str:
    """sha256 of the recipe's name, the settings that change its results, and the package versions."""
    content = {"recipe": type(config).__name__, "config": result_fields(config), "packages": dict(packages)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def find_runs(root: str | Path, key: str | None = None) -> list[Run]:
    """Runs below the folder `root`, oldest first; with `key`, only those with that content."""
    folders = sorted(Path(root).glob("**/config.json"), key=lambda path: path.stat().st_mtime)
    runs = [Run(path.parent) for path in folders]
    return [run for run in runs if run.exists and (key is None or run.key == key)]
