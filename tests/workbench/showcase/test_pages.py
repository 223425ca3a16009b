"""Exported pages: with the notebook's arguments, from no other machine, and not at all when a cell fails."""

import re
from pathlib import Path

import marimo
import pytest

from workbench.showcase.pages import export_page, title, with_own_assets

NOTEBOOK = """
import marimo

app = marimo.App(app_title="Shares & <parts>")

@app.cell
def _():
    import sys
    import marimo as mo
    return mo, sys

@app.cell
def _(mo, sys):
    mo.md(f"one part in {1 / int(sys.argv[1]):.4f}")
    return

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "shares.py"
    path.write_text(NOTEBOOK)
    return path


def test_page_shows_results_of_its_arguments(notebook, tmp_path):
    export_page(notebook, ["16"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "one part in 0.0625" in page
    (script,) = re.findall(r'<script type="module"[^>]* src="\./([^"]*)"', page)
    assert (Path(marimo.__file__).parent / "_static" / script).is_file()
    assert page.count("https://cdn") == 1  # for a page that is opened as a file
    assert title(notebook) == "Shares & <parts>"


def test_failing_cell_is_told_and_leaves_no_page(notebook, tmp_path):
    with pytest.raises(RuntimeError, match="division by zero"):
        export_page(notebook, ["0"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_other_pages_are_left_alone():
    assert with_own_assets("<head><script src='x.js'></script>") == "<head><script src='x.js'></script>"
