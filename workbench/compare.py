"""Training runs beside each other, in one HTML file.

python -m workbench.compare runs/a runs/b --out report.html
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bitembed_core.files import read_json
from workbench.figures import Section, write_report
from workbench.figures.comparison import RunData, compare_curves, comparison_table
from workbench.figures.layers import layer_heatmap
from workbench.runs import Run, find_runs


def read_run(path: str | Path) -> RunData:
    """What is known of the run in folder `path`, which may still be training.

    Raises:
        FileNotFoundError: there is no run.
    """
    run = Run.open(path)
    results = run.path / "results.json"
    return RunData(
        run.recipe,
        run.config,
        run.records(),
        run.layers(),
        read_json(results) if results.is_file() else None,
    )


def trained_runs(root: str | Path) -> list[str]:
    """Folders of the runs below `root` that have records, newest first."""
    runs = [run for run in find_runs(root) if (run.path / "records.jsonl").is_file()]
    return [str(run.path) for run in reversed(runs)]


def report(runs: Sequence[str], out: str | Path) -> None:
    """Write curves, settings and layers of `runs` to `out`."""
    data = {run: read_run(run) for run in runs}
    layers = [
        Section(
            f"Layers of {name}",
            items=[layer_heatmap(run.layers, "dead_share"), layer_heatmap(run.layers, "crest")],
        )
        for name, run in data.items()
        if run.layers
    ]
    write_report(
        out,
        "Training runs compared",
        ", ".join(runs),
        [
            Section("Settings and outcome", items=[comparison_table(data)]),
            Section("Curves", items=[compare_curves(data), compare_curves(data, over="hours")]),
            *layers,
        ],
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workbench.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", default="report.html", help="the HTML file (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        report(arguments.runs, arguments.out)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
