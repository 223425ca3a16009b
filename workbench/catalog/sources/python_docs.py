"""Docstrings of Python's standard library: summary line to code, summary line to explanation."""

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from workbench.catalog.example import Example
from workbench.catalog.text import cached_rows, clip, fold, squash

NOT_READ = re.compile(r"/(tests?|idlelib|lib2to3|pip|setuptools|_vendor)/|/(site|dist)-packages/")


def code_pairs() -> Iterator[Example]:
    for row in _rows():
        if len(row["code"]) > 60:
            yield Example(row["summary"], f"def {row['signature']}:\n{row['code']}")


def explanation_pairs() -> Iterator[Example]:
    for row in _rows():
        if len(row["explanation"]) > 60:
            yield Example(row["summary"], row["explanation"])


def version() -> str:
    return f"python{sysconfig.get_python_version()}"


def _rows() -> list[dict[str, str]]:
    return cached_rows(f"docstrings-{version()}", _docstrings)


def _docstrings() -> Iterator[dict[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    seen = set()
    for path in sorted(library.rglob("*.py")):
        if NOT_READ.search(f"/{path.relative_to(library).as_posix()}"):
            continue
        for node in _documented(path):
            summary, _, explanation = (ast.get_docstring(node) or "").strip().partition("\n\n")
            summary = squash(summary)
            if len(summary) >= 20 and fold(summary) not in seen:
                seen.add(fold(summary))
                signature, code = _code(node)
                yield {
                    "summary": summary,
                    "explanation": clip(squash(explanation), 800),
                    "signature": signature,
                    "code": code,
                }


Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _documented(path: Path) -> Iterator[Documented]:
    """Functions and classes of a file that have a docstring, none when the file cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, Documented) and not node.name.startswith("__") and ast.get_docstring(node):
            yield node


def _code(node: Documented) -> tuple[str, str]:
    """Signature and body without the docstring; a class has neither."""
    if isinstance(node, ast.ClassDef):
        return "", ""
    names = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
    body = ast.unparse(ast.Module(node.body[1:26], type_ignores=[]))
    return f"{node.name}({', '.join(names)})", clip(body, 800)
