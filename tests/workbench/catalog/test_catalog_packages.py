"""Fetching packages as data: checked, unpacked in one step, once, with errors that say what to do."""

import io
import multiprocessing
import sys
import tarfile
import time
import zipfile

import pytest

from workbench.catalog import apt, packages
from workbench.catalog.packages import (
    Package,
    PackageUnavailable,
    build_once,
    fetch_package,
    run_client,
    unpack,
)


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def slow_build(arguments):
    target, log = arguments

    def build(fresh):
        with log.open("a") as out:
            out.write("built\n")
        time.sleep(0.2)
        fresh.write_text("whole")

    return build_once(target, build).read_text()


def test_build_once_under_concurrent_processes_builds_once(tmp_path):
    arguments = (tmp_path / "deep" / "file", tmp_path / "log")
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(slow_build, [arguments] * 3) == ["whole"] * 3
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(fresh):
        fresh.mkdir()
        (fresh / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        build_once(tmp_path / "folder" / "target", build)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [".target.lock"]


def test_wheels_keep_their_folders_and_lone_top_folders_are_dropped(tmp_path):
    wheel = write_zip(tmp_path / "a.whl", {"pkg/data.txt": "x", "pkg-1.dist-info/METADATA": "y"})
    unpack(wheel, tmp_path / "wheel")
    assert (tmp_path / "wheel" / "pkg" / "data.txt").read_text() == "x"
    source = write_tar(tmp_path / "a.tar.gz", {"pkg-1/data.txt": "x", "pkg-1/sub/more.txt": "y"})
    unpack(source, tmp_path / "source")
    assert (tmp_path / "source" / "sub" / "more.txt").read_text() == "y"


def test_a_tar_archive_cannot_write_outside_itself(tmp_path):
    archive = write_tar(tmp_path / "bad.tar.gz", {"pkg/ok.txt": "x", "../../escaped.txt": "x"})
    (tmp_path / "inner").mkdir()
    with pytest.raises(ValueError, match=r"outside itself: \.\./\.\./escaped\.txt"):
        unpack(archive, tmp_path / "inner" / "bad")
    assert not (tmp_path / "escaped.txt").exists()
    assert not (tmp_path / "inner" / "bad").exists()


def test_links_in_a_tar_archive_are_not_made(tmp_path):
    with tarfile.open(tmp_path / "l.tar", "w") as archive:
        link = tarfile.TarInfo("pkg/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        plain = tarfile.TarInfo("pkg/plain")
        archive.addfile(plain, io.BytesIO())
    unpack(tmp_path / "l.tar", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["plain"]


@pytest.fixture
def served(monkeypatch):
    """Replaces the registry clients by a fabricated wheel; returns the names that were asked for."""
    asked = []

    def download(package, scratch):
        asked.append(package.name)
        return write_zip(scratch / "thing-1.whl", {"thing/a.txt": "x", "other/b.txt": "y"})

    monkeypatch.setattr(packages, "_download", download)
    return asked


def test_a_package_is_fetched_once(served):
    package = Package("debian", "thing")
    folder = fetch_package(package)
    assert fetch_package(package) == folder
    assert served == ["thing"]
    digest, name = (folder / "archive.sha256").read_text().split()
    assert len(digest) == 64
    assert name == "thing-1.whl"


def test_another_sha256_is_refused_and_nothing_kept(served):
    package = Package("pypi", "thing", "1", sha256="0" * 64)
    with pytest.raises(ValueError, match="the catalog expects 0000"):
        fetch_package(package)
    assert not package.folder.exists()


def test_a_missing_client_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda program: None)
    with pytest.raises(PackageUnavailable, match=r"some-words 1\.0 .*`npm` is not installed, install Node"):
        fetch_package(Package("npm", "some-words", "1.0", "0" * 64))


def test_missing_pip_is_named(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PackageUnavailable, match="pip is missing, run `python -m ensurepip`"):
        fetch_package(Package("pypi", "thing", "1", "0" * 64))


def test_a_failing_client_shows_its_last_words():
    program = "import sys; print('no route to registry', file=sys.stderr); sys.exit(3)"
    with pytest.raises(
        PackageUnavailable, match=r"cannot fetch words 1: is this machine online.*\n.*no route to registry"
    ):
        run_client([sys.executable, "-c", program], "words 1")


def test_debian_text_needs_debian(monkeypatch):
    monkeypatch.setattr(apt.platform, "freedesktop_os_release", lambda: {"ID": "fedora"})
    with pytest.raises(PackageUnavailable, match="does not run Debian"):
        apt.release()


def test_only_the_releases_own_main_lists_are_read(monkeypatch):
    targets = "Packages bookworm main /a\nPackages bookworm-updates main /b\nTranslations bookworm main /c\n"
    monkeypatch.setattr(apt, "release", lambda: "bookworm")
    monkeypatch.setattr(apt, "apt_get", lambda arguments, wanted: targets)
    monkeypatch.setattr(apt, "run_client", lambda command, wanted: f"Package: {command[-1]}\n\nPackage: z")
    assert list(apt.package_lists("Packages")) == ["Package: /a", "Package: z"]
    assert apt.stanza_field("Package: a\nSection:  net\n", "Section") == "net"
    assert apt.stanza_field("Package: a", "Section") == ""
