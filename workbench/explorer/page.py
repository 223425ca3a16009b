"""The storage explorer as a web page that needs no server: results computed beforehand, Python in the browser.

    python notebooks/storage_explorer.py --out runs/storage_explorer
    python -m workbench.explorer.page --exploration runs/storage_explorer/explorer.json --out site
    python -m http.server --directory site

The page is `notebooks/storage_explorer_page.py`, exported by `marimo export html-wasm` (which needs `uv`). Its browser has
neither torch nor this package: everything that its controls can show is drawn here and comes as data.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from bitembed_core.files import atomic_path, read_json, write_json
from workbench.explorer.formats import Recall, Setting
from workbench.explorer.report import WANTED
from workbench.explorer.retention import StoredScore
from workbench.figures.storage_explorer import (
    PLAN_MEASURES,
    cheapest_in_words,
    plan_bars,
    recall_against_bytes,
    retention_against_bytes,
)
from workbench.figures.tables import Neighbours, neighbours_side_by_side
from workbench.search.planner import Plan, Prices

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "storage_explorer_page.py"
DATA = Path("public") / "explorer.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--exploration", type=Path, required=True, help="explorer.json that the notebook saved"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the page")
    arguments = parser.parse_args()
    try:
        export_page(arguments.exploration, arguments.out)
    except (OSError, ValueError, RuntimeError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def export_page(exploration: str | Path, out: str | Path) -> None:
    """Write the page into the folder `out`, whole or not at all.

    Raises:
        FileNotFoundError: there is no such exploration, or no notebook (an installed package has none).
        ValueError: the file is no exploration.
        RuntimeError: marimo could not export, with what it said.
    """
    data = page_data(read_json(exploration))
    with tempfile.TemporaryDirectory() as scratch:
        notebook = Path(shutil.copy(NOTEBOOK, scratch))
        write_json(notebook.parent / DATA, data)
        with atomic_path(out) as fresh:
            command = [sys.executable, "-m", "marimo", "export", "html-wasm", str(notebook), "-o", str(fresh)]
            done = subprocess.run([*command, "--mode", "run"], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"marimo could not export the page:\n{done.stdout}{done.stderr}")


def page_data(exploration: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page shows, drawn: figures as plotly's JSON, lists as HTML, plans as numbers.

    Raises:
        ValueError: not what `workbench.explorer.report.exploration` made.
    """
    missing = {"model", "corpus", "retention", "recall", "neighbours", "plans"} - exploration.keys()
    if missing:
        raise ValueError(
            f"this is no exploration, {', '.join(sorted(missing))} is missing; "
            "`python notebooks/storage_explorer.py --out DIR` writes one as DIR/explorer.json"
        )
    model, corpus = exploration["model"], exploration["corpus"]
    return {
        "about": f"{corpus['texts']:,} texts of {corpus['name']}, {corpus['queries']:,} queries, encoded by "
        f"{model['name']} (kernel {model['kernel']}, {model['dimension']} dimensions)",
        "retention": {name: _retention(rows) for name, rows in exploration["retention"].items()},
        "recall": _recall(exploration["recall"], corpus["top"]),
        "neighbours": {
            columns["float32"]["query"]: neighbours_side_by_side(
                {name: [Neighbours(**answer)] for name, answer in columns.items()},
                "float32",
                name_lost=True,
                characters=80,
            )._repr_html_()
            for columns in exploration["neighbours"]
        },
        "plans": {
            count: _plan([Plan(**row) for row in rows]) for count, rows in exploration["plans"].items()
        },
    }


def _retention(rows: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [StoredScore(**row) for row in rows]
    figures = {"own float32": retention_against_bytes(scores, "float32")}
    if any(row.teacher is not None for row in scores):
        figures["the teacher"] = retention_against_bytes(scores, "teacher")
    return {name: figure.to_plotly_json() for name, figure in figures.items()}


def _recall(rows: list[dict[str, Any]], top: int) -> dict[str, Any]:
    """Figure and verdict by scoring, format to rescore with ("nothing" for none) and oversampling."""
    found: dict[str, Any] = {}
    recalls = [Recall(**row | {"setting": Setting(**row["setting"])}) for row in rows]
    unrescored: list[Recall] = []
    for (float_queries, rescore, oversampling), group in groupby(recalls, _controls):
        shown = list(group)
        if rescore == "nothing":
            unrescored = shown  # the first of those with the same scoring
        rescored = {row.setting.precision for row in shown if row.bytes_beside}
        before = [row for row in unrescored if row.setting.precision in rescored]
        scoring = "float queries" if float_queries else "symmetric"
        found.setdefault(scoring, {}).setdefault(rescore, {})[str(oversampling)] = {
            "figure": recall_against_bytes(shown, before, WANTED, top).to_plotly_json(),
            "verdict": cheapest_in_words(shown, WANTED),
        }
    return found


def _controls(row: Recall) -> tuple[bool, str, int]:
    return row.setting.float_queries, row.setting.rescore or "nothing", row.setting.oversampling


def _plan(plans: list[Plan]) -> dict[str, Any]:
    """Numbers that money is computed from, and figures of what does not depend on prices."""
    rows = [
        {
            "format": row.precision,
            "memory_gb": row.bytes_in_memory / 1e9,
            "disk_gb": row.bytes_on_disk / 1e9,
            "seconds_per_query": row.seconds_per_query,
        }
        for row in plans
    ]
    measures = [name for name in PLAN_MEASURES if name != "Money per month"]
    return {
        "rows": rows,
        "figures": {name: plan_bars(plans, name, Prices(0, 0)).to_plotly_json() for name in measures},
    }


if __name__ == "__main__":
    main()
