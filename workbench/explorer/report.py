"""What the storage explorer found, as one HTML file and as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from bitembed_core.files import write_json
from workbench.cli import public_name
from workbench.environment import environment
from workbench.explorer.corpus import ExplorerConfig
from workbench.explorer.formats import RESCORERS, Setting
from workbench.explorer.live import LiveCorpus
from workbench.explorer.retention import StoredScore
from workbench.figures.report import Section, write_report
from workbench.figures.storage_explorer import (
    PLAN_MEASURES,
    cheapest_in_words,
    plan_bars,
    plan_table,
    recall_against_bytes,
    retention_against_bytes,
)
from workbench.figures.tables import neighbours_side_by_side
from workbench.fingerprint import weights_fingerprint
from workbench.search.planner import MOST_VECTORS, Prices, Rates, plan

OVERSAMPLINGS = (2, 4, 8, 16)
EXAMPLE_QUERIES = 5
EXAMPLE_PRECISIONS = ("int8", "int4-fitted", "int2-fitted", "binary-fitted", "binary")
PLANNED = (*(count * 10**power for power in range(6, 10) for count in (1, 2, 5)), MOST_VECTORS)
WANTED = 0.9


def write_exploration(
    config: ExplorerConfig, files: Mapping[str, Sequence[StoredScore]], live: LiveCorpus, rates: Rates
) -> Path:
    """Write `report.html` and `explorer.json` into the folder `config.out`, each whole or not at all; returns the folder."""
    out = Path(config.out)
    write_json(out / "explorer.json", exploration(config, files, live, rates))
    prices = Prices(config.memory_price, config.disk_price)
    like = Setting("float32")
    taught = [row for rows in files.values() for row in rows if row.teacher is not None]
    figures = [retention_against_bytes(rows, "float32") for rows in files.values()]
    if taught:
        figures.insert(0, retention_against_bytes(taught, "teacher"))
    recalls = live.recalls(live.precisions, like)
    rescored = live.recalls(live.precisions, replace(like, rescore="int8"))
    plans = plan(config.vectors, live.formats.dimension, rates)
    examples = [
        live.neighbours(query, EXAMPLE_PRECISIONS, like) for query in live.corpus.queries[:EXAMPLE_QUERIES]
    ]
    write_report(
        out / "report.html",
        "How small can a vector be?",
        f"{len(live.corpus.texts):,} texts of {public_name(live.corpus.name)}, encoded by {public_name(config.model)} "
        f"(kernel {live.corpus.embedder.kernel}), in every storage format; and scores from {len(files)} results files.",
        [
            Section("What is kept", "", figures),
            Section(
                "On a corpus",
                f"{cheapest_in_words(recalls, WANTED)}\n\nWith int8 codes to rescore: {cheapest_in_words(rescored, WANTED)}",
                [
                    recall_against_bytes(recalls, wanted=WANTED),
                    recall_against_bytes(rescored, live.unrescored(rescored), WANTED),
                ],
            ),
            Section(
                "What a query returns",
                "Queries stay in floating point; nothing is rescored.",
                [
                    neighbours_side_by_side(columns, "float32", name_lost=True, characters=80)
                    for columns in examples
                ],
            ),
            Section(
                f"A plan for {config.vectors:,} vectors",
                "",
                [
                    plan_table(plans, prices, 1),
                    *(plan_bars(plans, measure, prices) for measure in PLAN_MEASURES),
                ],
            ),
        ],
    )
    return out


def exploration(
    config: ExplorerConfig, files: Mapping[str, Sequence[StoredScore]], live: LiveCorpus, rates: Rates
) -> dict[str, Any]:
    """Every number of the explorer, for all settings of its controls, as JSON has it."""
    embedder = live.corpus.embedder
    like = Setting("float32")
    settings = [
        Setting("float32", float_queries, rescore, oversampling)
        for float_queries, (rescore, oversampling) in product(
            (True, False), ((None, 4), *product(RESCORERS, OVERSAMPLINGS))
        )
    ]
    return {
        "environment": environment(),
        "config": asdict(config),
        "model": {
            "name": public_name(config.model),
            "weights": weights_fingerprint(embedder),
            "kernel": embedder.kernel,
            "dimension": live.formats.dimension,
            "max_length": embedder.max_length,
        },
        "corpus": {
            "name": public_name(live.corpus.name),
            "texts": len(live.corpus.texts),
            "queries": len(live.corpus.queries),
            "top": live.formats.top,
        },
        "retention": {name: [asdict(row) for row in rows] for name, rows in files.items()},
        "recall": [asdict(row) for setting in settings for row in live.recalls(live.precisions, setting)],
        "neighbours": [
            {name: answers[0]._asdict() for name, answers in columns.items()}
            for query in live.corpus.queries[:EXAMPLE_QUERIES]
            for columns in [live.neighbours(query, EXAMPLE_PRECISIONS, like)]
        ],
        "rates": asdict(rates),
        "plans": {
            str(count): [asdict(row) for row in plan(count, live.formats.dimension, rates)]
            for count in PLANNED
        },
    }
