"""Training runs beside each other, in one HTML file; or all that they wrote in words and numbers, in one JSON file.

python -m workbench.compare runs/a runs/b --out report.html
python -m workbench.compare runs/teacher runs/pretrain runs/distill --out stages.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitembed_core.files import read_json, write_json
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


def published(runs: Sequence[str]) -> list[dict[str, Any]]:
    """Recipe, settings, surroundings, data and records of each run, for others to read: without the folders of this
    machine, of which the last name stays."""
    found = []
    for name in runs:
        run = Run.open(name)
        data = run.path / "data.json"
        found.append(
            {
                "run": run.path.resolve().name,
                "recipe": run.recipe,
                "config": {key: _without_folders(value) for key, value in run.config.items()},
                "environment": read_json(run.path / "environment.json"),
                "data": read_json(data) if data.is_file() else [],
                "records": [
                    {key: _without_folders(value) for key, value in record.items()}
                    for record in run.records()
                ],
            }
        )
    return found


def _without_folders(value: Any) -> Any:
    """A setting with the last name of every absolute path in it."""
    if not isinstance(value, str):
        return value
    parts = value.split(",")
    return ",".join(Path(part).name if Path(part).is_absolute() else part for part in parts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m workbench.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", default="report.html", help="the file, HTML or .json (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.out.endswith(".json"):
            write_json(arguments.out, {"runs": published(arguments.runs)})
        else:
            report(arguments.runs, arguments.out)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
