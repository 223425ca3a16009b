"""apt as a source of data, through a private list directory.

The machine's own apt lists are left alone: container images empty them and switch the long package
descriptions off (`Acquire::Languages "none"`), so the workbench keeps its own copy in the cache.
"""

import logging
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.catalog.packages import PackageUnavailable, build_once, cache_root, require_client, run_client

logger = logging.getLogger("bitembed")

APT_HELPER = Path("/usr/lib/apt/apt-helper")


def apt_get(arguments: Sequence[str], wanted: object, cwd: Path | None = None) -> str:
    """Run `apt-get` over the private package lists (fetched on first use) and return what it prints."""
    lists = build_once(cache_root() / "apt" / release() / "lists", _update)
    return _apt_get(lists, arguments, wanted, cwd)


def release() -> str:
    """Code name of this machine's Debian release, like "bookworm"; PackageUnavailable on other systems."""
    try:
        system = platform.freedesktop_os_release()
    except OSError:
        system = {}
    if system.get("ID") != "debian":
        raise PackageUnavailable("cannot fetch Debian packages: this machine does not run Debian")
    return system["VERSION_CODENAME"]


def package_lists(created_by: str) -> Iterator[str]:
    """Stanzas of the release's main lists: `created_by` is "Packages" or "Translations"."""
    wanted = "the Debian package lists"
    columns = "$(CREATED_BY) $(CODENAME) $(COMPONENT) $(FILENAME)"
    for line in apt_get(["indextargets", "--format", columns], wanted).splitlines():
        created, codename, component, path = line.split(" ", 3)
        if (created, codename, component) == (created_by, release(), "main"):
            yield from run_client([str(APT_HELPER), "cat-file", path], wanted).split("\n\n")


def _update(lists: Path) -> None:
    wanted = "the Debian package lists"
    require_client("apt-get", "apt", wanted)
    logger.info("fetching %s, 16 MB", wanted)
    lists.mkdir()
    _apt_get(lists, ["update", "-q"], wanted)
    if not list(lists.glob(f"*_dists_{release()}_main_*Translation-en*")):
        raise PackageUnavailable(f"cannot fetch {wanted}: is this machine online?")


def _apt_get(lists: Path, arguments: Sequence[str], wanted: object, cwd: Path | None = None) -> str:
    client = require_client("apt-get", "apt", wanted)
    cache = cache_root() / "apt" / "cache"
    for folder in (lists / "partial", cache / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::lists": str(lists.resolve()),
        "Dir::Cache": str(cache.resolve()),
        "Acquire::Languages": "en",
        "APT::Sandbox::User": "root",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    return run_client([client, *options, *arguments], wanted, cwd=cwd)


def stanza_field(stanza: str, field: str) -> str:
    """Value of a one-line field of a stanza, "" when it is absent."""
    found = re.search(rf"^{field}: (.*)$", stanza, re.MULTILINE)
    return found.group(1).strip() if found else ""
