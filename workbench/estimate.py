"""What training will cost on this machine, before it is started:

    python -m workbench.estimate pretrain --recipe minilm-full

The arguments are those of the notebook of that name. Each stage is one line of JSON; the apps read them from here, so that
the models which are measured leave their memory when the process ends.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import transformers

from workbench.config import parse_config, to_arguments
from workbench.recipes.estimate import Estimate, estimate
from workbench.recipes.presets import DISTILL_RECIPES, PRETRAIN_RECIPES
from workbench.recipes.pretrain import PretrainConfig, pretrain_stage
from workbench.recipes.settings import TrainingConfig
from workbench.recipes.stage import Stage, prepare
from workbench.recipes.stages import StagesConfig, planned_stages

Notebook = Literal["pretrain", "distill"]


def stages(notebook: str, arguments: Sequence[str]) -> list[Stage]:
    """The stages that `notebook` trains with these arguments."""
    if notebook == "pretrain":
        return [pretrain_stage(parse_config(PretrainConfig, arguments, PRETRAIN_RECIPES)[0])]
    return planned_stages(parse_config(StagesConfig, arguments, DISTILL_RECIPES)[0])


def estimate_elsewhere(notebook: Notebook, config: TrainingConfig) -> list[Estimate]:
    """The estimates of all stages of `config`, made in another process.

    Raises:
        RuntimeError: it failed; the message is its last words.
    """
    command = [sys.executable, "-m", "workbench.estimate", notebook, *to_arguments(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}")
    return [Estimate(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in ("pretrain", "distill"):
        print(
            "usage: python -m workbench.estimate {pretrain,distill} [settings of that notebook]",
            file=sys.stderr,
        )
        return 2
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        for stage in stages(argv[0], argv[1:]):
            print(json.dumps(asdict(estimate(prepare(stage)))), flush=True)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
