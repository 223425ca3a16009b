"""Not a test: what `test_distributed.py` launches on two processes, with weights in shards too, and also runs on one.

    two_processes.py MODELS_FOLDER RESULT_FOLDER

Takes two steps with every loss switched on, and writes the records, the gradients that the optimizer got and the bytes that
the process holds. The mode "resumed" is interrupted after its first step.
"""

import json
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from bitembed_core import BitEmbedder
from bitembed_core.conversion import learn_scales
from workbench.catalog.example import Example, ExampleSource
from workbench.recipes.batches import BatchSchedule
from workbench.recipes.dev_set import DevSet
from workbench.recipes.distill import DistillConfig
from workbench.recipes.engine import Training
from workbench.recipes.objective import Objective
from workbench.recipes.sharding import make_accelerator, whole
from workbench.runs import Run

CONFIG = DistillConfig(
    steps=2,
    batch_size=8,
    accumulation=2,
    learning_rate=1e-3,
    max_length=64,
    precision="float32",
    hard_negatives=2,
    relation_weight=10.0,
    relation_heads=4,
    regression_weight=0.5,
    spread_out_weight=0.1,
    false_negative_margin=0.1,
    save_every=1,
    watch_every=2,
    dev_every=1,
)


def examples() -> ExampleSource:
    """Texts of very different lengths, so that the processes have different numbers of tokens."""
    rows = [
        Example(
            f"w{i} w{i + 1}",
            " ".join(f"w{(i * k) % 60}" for k in range(2, 3 + i)),
            tuple(f"w{i} w{(i * 7 + n) % 60}" for n in range(2)),
        )
        for i in range(40)
    ]
    return ExampleSource("made up", "made up", "none", rows)


def prepared(models: Path, out: Path, ternary: bool, keep_vectors: bool = False, **settings: Any) -> Training:
    config = replace(CONFIG, **settings)
    accelerator = make_accelerator()
    student = BitEmbedder.from_pretrained(models / "student", device="cpu")
    if ternary:
        student.convert()
        if models.name == "qwen3":  # parameters of a single number, of which a process may have no part
            learn_scales(student.model)
    run = Run(out / "run")
    if accelerator.is_main_process and not run.exists:
        Run.create(run.path, config)
    accelerator.wait_for_everyone()
    dev_set, sources = DevSet.hold_out([examples()], config.dev_examples, config.seed)
    return Training(
        stage="distill",
        config=config,
        run=run,
        accelerator=accelerator,
        schedule=BatchSchedule(sources, config.batch_size, config.seed, config.hard_negatives),
        objective=Objective.of(config),
        student=student,
        teacher=BitEmbedder.from_pretrained(models / "teacher", device="cpu"),
        dev_set=dev_set,
        teacher_vectors=out / "vectors" if keep_vectors else None,
    )


def train(training: Training, out: Path) -> None:
    gradients = {}

    def look(*_: object) -> None:
        for name, parameter in training.student.model.named_parameters():
            if parameter.grad is not None and name not in gradients:
                gradients[name] = whole(parameter.grad).clone()  # of the first step

    training.optimizer.register_step_pre_hook(look)
    records = list(training.records())
    rank = training.accelerator.process_index
    save_file(gradients, out / f"gradients-{rank}.safetensors")
    (out / f"records-{rank}.json").write_text(json.dumps(records))
    moments = [moment for state in training.optimizer.state.values() for moment in state.values()]
    held = [own_part(tensor) for tensor in (*training.student.model.parameters(), *moments)]
    (out / f"bytes-{rank}.json").write_text(json.dumps(sum(tensor.nbytes for tensor in held)))


def own_part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


MODES: dict[str, dict[str, Any]] = {
    "float": {"ternary": False},
    "ternary": {"ternary": True},
    "chunked": {"ternary": False, "chunk_tokens": 100, "gradient_checkpointing": True},
    "resumed": {"ternary": False},
    "muon": {"ternary": False, "optimizer": "muon"},
    "kept": {"ternary": False, "keep_vectors": True},
}

if __name__ == "__main__":
    models, results = map(Path, sys.argv[1:])
    for architecture in models.iterdir():
        for name, settings in MODES.items():
            folder = results / architecture.name / name
            folder.mkdir(parents=True, exist_ok=True)
            if name == "resumed":
                list(islice(prepared(architecture, folder, **settings).records(), 1))
            train(prepared(architecture, folder, **settings), folder)
