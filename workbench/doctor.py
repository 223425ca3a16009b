"""`bitembed doctor`: what this machine has of what the workbench can use."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from workbench.environment import (
    cpu_model,
    git_commit,
    isa_flags,
    memory_gib,
    package_versions,
    usable_cores,
)

OPTIONAL_PACKAGES = {"bitembed": "not installed, running from a checkout"}
CLIENTS = {
    "pip": "models and data sets from PyPI",
    "npm": "data sets from the npm registry (cls_spamassassin)",
    "apt-get": "data sets from the Debian archive (ret_debian, clu_debian_sections and training text)",
}
CACHED = {"models": "models/*", "packages": "packages/*/*", "texts": "built/*/*.jsonl"}
NEEDED_MEMORY_GIB = 6.0


class Check(NamedTuple):
    """One line of the report; "missing" is a fault, "absent" something one can do without."""

    subject: str
    state: Literal["OK", "absent", "missing"]
    detail: str


def examine() -> list[Check]:
    """All checks, from the interpreter to the kernels."""
    return [*_software(), *_hardware(), *_data(), *_kernels()]


def report(checks: list[Check]) -> str:
    """The checks as aligned lines and a last one that sums up."""
    width = max(len(check.subject) for check in checks)
    lines = [f"{check.state:<8} {check.subject:<{width}}  {check.detail}" for check in checks]
    missing = [check.subject for check in checks if check.state == "missing"]
    lines.append(f"missing: {', '.join(missing)}" if missing else "everything needed is here")
    return "\n".join(lines)


def _software() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", "OK" if sys.version_info >= (3, 11) else "missing", f"{version} (3.11 or later)")
    for name, installed in package_versions().items():
        if installed is not None:
            yield Check(name, "OK", installed)
        elif name in OPTIONAL_PACKAGES:
            yield Check(name, "absent", OPTIONAL_PACKAGES[name])
        else:
            yield Check(name, "missing", f"pip install {name}")
    commit = git_commit()
    yield Check("checkout", "OK" if commit else "absent", commit or "an installation without history")


def _hardware() -> Iterator[Check]:
    yield Check(
        "processor", "OK", f"{cpu_model()}, {usable_cores()} cores, {torch.get_num_threads()} threads"
    )
    flags = isa_flags()
    yield Check(
        "instructions", "OK" if flags else "absent", " ".join(flags) or "none that low-bit kernels use"
    )
    total, free = memory_gib(), memory_gib("MemAvailable")
    if total is None or free is None:
        yield Check("memory", "absent", "this system does not say")
    else:
        state: Literal["OK", "missing"] = "OK" if free >= NEEDED_MEMORY_GIB else "missing"
        yield Check("memory", state, f"{free} of {total} GiB free; the demo needs {NEEDED_MEMORY_GIB:.0f}")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Check("gpu", "OK" if names else "absent", ", ".join(names) or "no CUDA device; the CPU is used")


def _data() -> Iterator[Check]:
    from workbench.catalog.packages import cache_root

    root = cache_root()
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 1e6
    yield Check("cache", "OK" if size else "absent", f"{root}, {size:.0f} MB")
    for kind, pattern in CACHED.items():
        names = sorted(path.name for path in root.glob(pattern) if not path.name.startswith("."))
        yield Check(f"cached {kind}", "OK" if names else "absent", ", ".join(names) or "none yet")
    space = shutil.disk_usage(_existing(root)).free / 1e9
    yield Check(
        "disk", "OK" if space >= 2 else "missing", f"{space:.0f} GB free for the cache; it can need 2"
    )
    for program, purpose in CLIENTS.items():
        found = _has_pip() if program == "pip" else shutil.which(program) is not None
        yield Check(program, "OK" if found else "absent", purpose)


def _kernels() -> Iterator[Check]:
    from bitembed_core.ops import library
    from bitembed_core.ops.ternary_linear import KERNELS, select_kernel

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        chosen = select_kernel("auto", device).name
        for name in KERNELS:
            try:
                error = _kernel_error(name, device)
            except (RuntimeError, ValueError) as reason:
                yield Check(f"kernel {name}", "absent", f"{device}: {' '.join(str(reason).split())}")
                continue
            right = error < 1e-3
            label = f"{name}, {library.isa()}" if name == "native" else name
            detail = f"{device}: agrees with a plain product" if right else f"{device}: wrong by {error:.1e}"
            yield Check(
                f"kernel {label}",
                "OK" if right else "missing",
                detail + (", default" if name == chosen else ""),
            )


def _kernel_error(name: str, device: str) -> float:
    """Largest relative error of a kernel against the reference kernel on a small product."""
    from bitembed_core import BitLinear
    from bitembed_core.ops.ternary_linear import select_kernel

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 64, generator=generator).to(device)
    layer = BitLinear(64, 32, bias=False, norm_eps=None).to(device)
    assert layer.weight is not None
    expected = select_kernel("reference", device).latent(x, layer.weight).detach()
    layer.kernel = select_kernel(name, device)
    training = layer(x)
    layer.freeze()
    return max(
        float((got - expected).abs().max() / expected.abs().max()) for got in (training.detach(), layer(x))
    )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _has_pip() -> bool:
    from importlib.util import find_spec

    return find_spec("pip") is not None
