"""What a distilled model is worth beside its teacher, and beside itself before training."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.catalog.models import load_embedder
from workbench.evaluation import evaluate, retention_table, write_results
from workbench.recipes.stages import StagesConfig, untrained

logger = logging.getLogger("bitembed")


def score_run(config: StagesConfig, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Evaluate the finished run of `config` on its tasks at every precision, with its teacher and its untrained model, and
    keep the results in `results.json` of the run. `progress` is told what is logged."""

    def tell(line: str) -> None:
        logger.info(line)
        if progress is not None:
            progress(line)

    results = evaluate(
        load_embedder(config.out),
        config.tasks,
        teacher=load_embedder(config.teacher_name),
        cap=config.cap,
        baselines={"untrained": untrained(config)},
        progress=tell,
        name=config.out,
        teacher_name=config.teacher_name,
    )
    write_results(Path(config.out) / "results.json", results)
    logger.info(retention_table(results))
    return results
