"""`make pages`: every notebook as a page that is read without Python, with its results and figures in it.

    python -m workbench.showcase.pages --out build/pages --model runs/minilm-full/distill
    python -m http.server --directory build/pages

marimo's exported pages take their scripts and fonts from a content network. Here these lie beside the pages, so that
any web server, and no other machine, is needed. Opened as files, where browsers refuse such scripts, the pages take
them from the network as before.
"""

import ast
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

import marimo

from bitembed_core.files import atomic_path
from workbench.config import parse_config
from workbench.figures.theme import FONT_FAMILY
from workbench.showcase.apps import NAMES, ShowcaseConfig, arguments
from workbench.showcase.serving import NOTEBOOKS

_CDN = re.compile(r"https://cdn\.jsdelivr\.net/npm/@marimo-team/frontend@[^/]+/dist/")
_INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>BitEmbed Workbench</title>
<style>body {{ font: 17px/1.6 {font}; color: #1f2933; max-width: 46em; margin: 3em auto; padding: 0 1.2em; }}
a {{ color: #0072b2; }}</style>
<h1>BitEmbed Workbench</h1>
<ul>
{items}
</ul>
</html>
"""


def export_page(notebook: Path, arguments: Sequence[str], out: Path) -> None:
    """Run a notebook with `arguments` and write what it shows, without its code, to `out`, whole or not at all.

    RuntimeError, with what it printed, when a cell fails.
    """
    with atomic_path(out) as fresh:
        command = [
            "marimo",
            "export",
            "html",
            str(notebook),
            "--no-include-code",
            "-o",
            str(fresh),
            "--force",
        ]
        done = subprocess.run(
            [sys.executable, "-m", *command, "--", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{notebook.name} failed:\n{done.stdout}")
        fresh.write_text(with_own_assets(fresh.read_text(encoding="utf-8")), encoding="utf-8")


def with_own_assets(page: str) -> str:
    """An exported page that takes its scripts from beside it, unless it is opened as a file."""
    found = _CDN.search(page)
    if found is None:
        return page
    base = (
        f"""<script>if (location.protocol === "file:") document.write('<base href="{found[0]}">')</script>"""
    )
    return _CDN.sub("./", page).replace("<head>", f"<head>\n    {base}", 1)


def title(notebook: Path) -> str:
    """The app's title, as its source gives it."""
    tree = ast.parse(notebook.read_text(encoding="utf-8"))
    titles = [
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "app_title" and isinstance(keyword.value, ast.Constant)
    ]
    return str(titles[0]) if titles else notebook.stem


def pages(config: ShowcaseConfig) -> None:
    """Export the notebooks into `config.out`, with an index of them."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    parts = Path(marimo.__file__).parent / "_static"
    shutil.copytree(parts, out, ignore=shutil.ignore_patterns("*.html", "*.md"), dirs_exist_ok=True)
    for number, name in enumerate(config.notebooks, start=1):
        print(f"{number}/{len(config.notebooks)} {name}: ", end="", flush=True)
        began = time.monotonic()
        path = out / f"{name}.html"
        export_page(NOTEBOOKS / f"{name}.py", arguments(config)[name], path)
        print(f"{path.stat().st_size / 1e6:.1f} MB after {time.monotonic() - began:.0f} s", flush=True)
    items = "\n".join(
        f'<li><a href="{name}.html">{escape(title(NOTEBOOKS / f"{name}.py"))}</a></li>'
        for name in NAMES
        if (out / f"{name}.html").is_file()
    )
    with atomic_path(out / "index.html") as fresh:
        fresh.write_text(_INDEX.format(font=escape(FONT_FAMILY), items=items), encoding="utf-8")
    print(f"{out / 'index.html'}: serve with `python -m http.server --directory {out}`")


if __name__ == "__main__":
    pages(parse_config(ShowcaseConfig)[0])
