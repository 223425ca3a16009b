"""The rules of the house: who may import whom, and what kernels/ may not contain."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "bitembed_core": {
        "bitembed_core",
        "torch",
        "transformers",
        "safetensors",
        "xxhash",
        "numpy",
        "tokenizers",
        "tqdm",
        "huggingface_hub",
        "triton",
    },
    "workbench": None,  # anything but the floor above
    "notebooks": None,
}
FLOORS = ["bitembed_core", "workbench", "notebooks"]


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_from_floors_below(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    forbidden = set(FLOORS[FLOORS.index(floor) + 1 :]) | {"kernels", "tests"}
    for path in files:
        found = imports(path)
        assert not found & forbidden, f"{path.relative_to(ROOT)} imports {found & forbidden}"


def test_the_core_needs_torch_and_little_else() -> None:
    import sys

    for path in sorted((ROOT / "bitembed_core").rglob("*.py")):
        extra = imports(path) - MAY_IMPORT["bitembed_core"] - sys.stdlib_module_names
        assert not extra, f"{path.relative_to(ROOT)} imports {extra}"


def test_kernels_is_no_python_package() -> None:
    """A `kernels` package here would shadow the PyPI distribution of that name, which transformers imports."""
    python = [p for p in (ROOT / "kernels").rglob("*.py") if "benchmarks" not in p.relative_to(ROOT).parts]
    assert not python
    assert not list((ROOT / "kernels").rglob("__init__.py"))
