"""A training as an app sees it. The notebook runs as a script in a process of its own: it goes on when the tab is closed
or the app's server interrupted, stops at a step boundary when it is told to, and its memory is the system's again when it
ends.

What an app shows comes from the run folders, so that another tab, or the same after a reload, finds a run that is under
way and can pause it; nothing else is shared.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from workbench.config import to_arguments
from workbench.recipes.settings import Record, TrainingConfig
from workbench.runs import Run

Config = TypeVar("Config", bound=TrainingConfig)

State = Literal["new", "working", "training", "pausing", "paused", "failed", "finished"]
BUSY: tuple[State, ...] = ("working", "training", "pausing")


class Standing(NamedTuple):
    """Where the training of some settings stands, and what there is to say about it."""

    state: State
    message: str = ""

    @property
    def busy(self) -> bool:
        return self.state in BUSY


class Job:
    """The training that one tab of an app may start: `notebook` is the file of the app itself."""

    def __init__(self, notebook: str | Path) -> None:
        self.notebook = Path(notebook)
        self.process: subprocess.Popen[bytes] | None = None
        self._said: Any = None

    def start(self, config: TrainingConfig) -> None:
        """Train from the beginning.

        Raises:
            FileExistsError: there is a run in the folder, and it is not to be overwritten.
            RunInUse: a process is training there.
        """
        Run(Path(config.out)).check_free(config.overwrite)
        self._launch(replace(config, resume=False))

    def resume(self, config: TrainingConfig) -> None:
        """Go on from the newest checkpoint.

        Raises:
            RunInUse: a process is training there.
            ValueError: the run was started with other settings.
        """
        own = Run(Path(config.out))
        if own.exists:
            own.check_config(config)
        self._launch(replace(config, resume=own.exists, overwrite=False))

    def pause(self, config: TrainingConfig) -> None:
        """Ask the run that is under way, in whichever process, to stop after its step; before the first step, end this
        job's process at once."""
        under_way = [run for run in _runs(config) if run.under_way]
        for run in under_way:
            run.request_pause()
        if not under_way and self.process is not None:
            self.process.terminate()

    def standing(self, config: TrainingConfig) -> Standing:
        """Where the training of `config` stands now."""
        runs = _runs(config)
        own = runs[-1]
        for run in runs:
            if run.under_way:
                return Standing("pausing" if run.pause_requested else "training")
        code = self.process.poll() if self.process is not None else None
        if self.process is not None and code is None:
            return Standing("working", self._last_line())
        if code is not None and code > 0 and not own.finished:
            return Standing("failed", self._failure(code))
        if own.finished:
            return Standing("finished")
        return Standing("paused" if any(run.exists for run in runs) else "new")

    def _launch(self, config: TrainingConfig) -> None:
        if self.process is not None and self.process.poll() is None:
            raise RuntimeError("this tab is training already: pause that run first")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the job is forgotten)
        command = [sys.executable, str(self.notebook), *to_arguments(config), "--run"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            env=os.environ,
            start_new_session=True,  # Ctrl-C in the app's terminal is not meant for it
        )

    def _output(self) -> str:
        size = os.fstat(self._said.fileno()).st_size
        return os.pread(self._said.fileno(), size, 0).decode(errors="replace").strip()

    def _last_line(self) -> str:
        return self._output().rpartition("\n")[2] or "loading models and data"

    def _failure(self, code: int) -> str:
        """What comes after the traceback, or after the usage."""
        lines = self._output().splitlines()
        indented = [number for number, line in enumerate(lines) if line.startswith("  ")]
        return "\n".join(lines[indented[-1] + 1 if indented else 0 :]) or f"exit status {code}"


def records_of(config: TrainingConfig) -> list[Record]:
    """The records of all runs that `config` makes, as far as they go."""
    return [record for run in _runs(config) if run.exists for record in run.records()]


def _runs(config: TrainingConfig) -> list[Run]:
    return [Run(Path(folder)) for folder in config.folders]
