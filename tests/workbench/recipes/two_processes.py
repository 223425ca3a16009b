"""Not a test: what `test_distributed.py` launches on two processes and also runs on one.

    two_processes.py STUDENT_FOLDER TEACHER_FOLDER RESULT_FOLDER

Takes two steps with every loss switched on, and writes the records and the gradients that the optimizer got.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file

from bitembed_core import BitEmbedder
from workbench.catalog.example import Example, ExampleSource
from workbench.recipes.batches import BatchSchedule
from workbench.recipes.distill import DistillConfig
from workbench.recipes.engine import Training
from workbench.recipes.objective import Objective
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
)


def examples() -> ExampleSource:
    """Texts of very different lengths, so that the processes have different numbers of tokens."""
    rows = [
        Example(
            f"w{i} w{i + 1}",
            " ".join(f"w{(i * k) % 60}" for k in range(2, 3 + i)),
            tuple(f"w{i} w{(i * 7 + n) % 60}" for n in range(2)),
        )
        for i in range(16)
    ]
    return ExampleSource("made up", "made up", "none", rows)


def train(student_folder: str, teacher_folder: str, out: Path, ternary: bool, chunk: int | None) -> None:
    config = replace(CONFIG, chunk=chunk)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    student = BitEmbedder.from_pretrained(student_folder, device="cpu")
    if ternary:
        student.convert()
    if accelerator.is_main_process:
        Run.create(out / "run", config)
    accelerator.wait_for_everyone()
    training = Training(
        stage="distill",
        config=config,
        run=Run(out / "run"),
        accelerator=accelerator,
        schedule=BatchSchedule([examples()], CONFIG.batch_size, CONFIG.seed, CONFIG.hard_negatives),
        objective=Objective.of(CONFIG),
        student=student,
        teacher=BitEmbedder.from_pretrained(teacher_folder, device="cpu"),
    )
    gradients = {}

    def look(*_: object) -> None:
        for name, parameter in student.model.named_parameters():
            if parameter.grad is not None:
                gradients.setdefault(name, parameter.grad.clone())  # of the first step

    training.optimizer.register_step_pre_hook(look)
    records = list(training.records())
    rank = accelerator.process_index
    save_file(gradients, out / f"gradients-{rank}.safetensors")
    (out / f"records-{rank}.json").write_text(json.dumps(records))


if __name__ == "__main__":
    set_seed(0)
    student_path, teacher_path, result = sys.argv[1:]
    for name, chunk in (("float", None), ("ternary", None), ("chunked", 3)):
        folder = Path(result, name)
        folder.mkdir(parents=True, exist_ok=True)
        train(student_path, teacher_path, folder, name == "ternary", chunk)
