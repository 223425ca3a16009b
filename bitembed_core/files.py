"""Files that are either whole or absent: everything is written beside its destination, then renamed."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it replaces `path`, on any error it is removed.

    The caller creates a file or a directory at the yielded path. An existing directory at `path` is moved
    aside before the rename and removed after it, so a reader sees the old content or the new, never a mixture.

    Raises:
        OSError: the disk is full or not writable, also where safetensors has its own error for that.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    fresh, stale = scratch / "new", scratch / "old"
    try:
        yield fresh
        if path.is_dir():
            path.rename(stale)
            try:
                fresh.rename(path)
            except OSError:
                stale.rename(path)
                raise
        else:
            os.replace(fresh, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written, what was there is whole: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_half_written(folder: str | os.PathLike[str], name: str = "*") -> None:
    """Remove what processes that were killed inside `atomic_path` left in `folder` of files and folders called `name`, a
    pattern; nobody may be writing such now."""
    for scratch in Path(folder).glob(f".{name}.????????"):
        if scratch.is_dir() and {entry.name for entry in scratch.iterdir()} <= {"new", "old"}:
            shutil.rmtree(scratch)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_path(path) as fresh:
        fresh.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; ValueError names the file when it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
