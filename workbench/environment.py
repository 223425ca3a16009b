"""What a number was computed with: versions, hardware and commit, without names of machines or paths."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "bitembed",
    "torch",
    "transformers",
    "sentence-transformers",
    "mteb",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
    "marimo",
    "plotly",
)
ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def environment() -> dict[str, Any]:
    """A JSON-ready description of this process's surroundings; `commit` ends in -dirty with local changes."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "isa": isa_flags(),
        "memory_gib": memory_gib(),
        "gpus": gpus,
        "packages": package_versions(),
        "commit": git_commit(),
    }


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that results depend on; None for one that is not installed."""
    return {name: package_version(name) for name in PACKAGES}


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the checkout this code runs from, or None when it runs from an installation."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("-dirty" if _git(root, "status", "--porcelain") else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def cpu_model() -> str:
    """The processor's name as it calls itself, e.g. "Intel(R) Xeon(R) Processor"."""
    for line in _proc("cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Hardware", "cpu model"}:
            return value.strip()
    return platform.processor() or platform.machine()


def isa_flags() -> list[str]:
    """Which of the instruction sets that matter to low-bit kernels this processor has."""
    for line in _proc("cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            present = set(value.split())
            return [flag for flag in ISA_FLAGS if flag in present]
    return []


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib(kind: str = "MemTotal") -> float | None:
    """Main memory in GiB, "MemTotal" or "MemAvailable"; None where the system does not say."""
    for line in _proc("meminfo"):
        if line.startswith(f"{kind}:"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def _proc(name: str) -> list[str]:
    try:
        return Path("/proc", name).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
