"""What a stage will cost on this machine, before it is started: tokens are counted in its own first batches, seconds and
memory are measured in a few of its own steps, on a copy that is thrown away. No run folder is made or touched.
"""

import resource
import statistics
import sys
import time
from dataclasses import dataclass

import torch

from workbench.recipes.checkpoints import trained_parameters
from workbench.recipes.engine import Training
from workbench.recipes.forward import tokenize_batch

COUNTED = 2048  # examples of which tokens are counted, in whole batches
TRIAL = 64  # examples in a trial of a batch that would take too long as a whole
PATIENCE = 15.0  # seconds; a longer step is not tried as a whole


@dataclass(frozen=True)
class Estimate:
    """The cost of one stage, for one process on this machine."""

    stage: str
    steps: int
    counted_batches: int
    tokens_per_step: float
    """Mean over the batches that were counted, padding not included."""
    seconds_per_step: float
    tried_examples: int
    """Examples in a trial step, the whole batch or a part of it from which the time of all was inferred."""
    batch_size: int
    seconds_per_measurement: float
    """Of one score on held-out examples, 0 if there are none."""
    measurements: int
    memory_bytes: int
    """At most held by this process (or by its GPU) so far."""
    checkpoint_bytes: int
    checkpoints: int
    """Kept at a time."""
    model_bytes: int
    """The trained model, exact, to train on from."""

    @property
    def tokens(self) -> float:
        return self.steps * self.tokens_per_step

    @property
    def seconds(self) -> float:
        return self.steps * self.seconds_per_step + self.measurements * self.seconds_per_measurement

    @property
    def disk_bytes(self) -> int:
        """At the moment when a new checkpoint is written and the oldest has not been removed."""
        return (self.checkpoints + 1) * self.checkpoint_bytes + self.model_bytes


def estimate(training: Training) -> Estimate:
    """Count and measure; `training` has been prepared for this and is of no use afterwards.

    Raises:
        TrainingDiverged: the settings lead to losses that are not finite at once.
    """
    config = training.config
    counts = count_tokens(training)
    tokens_per_step = statistics.mean(counts)
    seconds_per_token, tried = time_tokens(training, tokens_per_step)
    measurement, measurements = 0.0, 0
    if training.dev_set is not None and config.dev_every is not None:
        began = time.perf_counter()
        training.dev_set.ndcg(training.student, config.max_length)
        measurement, measurements = time.perf_counter() - began, -(-config.steps // config.dev_every)
    trained = sum(p.numel() * p.element_size() for p in trained_parameters(training.student.model).values())
    moments = sum(value.nbytes for state in training.optimizer.state.values() for value in state.values())
    return Estimate(
        stage=training.stage,
        steps=config.steps,
        counted_batches=len(counts),
        tokens_per_step=tokens_per_step,
        seconds_per_step=seconds_per_token * tokens_per_step,
        tried_examples=tried,
        batch_size=config.batch_size,
        seconds_per_measurement=measurement,
        measurements=measurements,
        memory_bytes=peak_memory(training.accelerator.device),
        checkpoint_bytes=trained + moments,
        checkpoints=config.keep_checkpoints,
        model_bytes=sum(p.numel() * p.element_size() for p in training.student.model.parameters()),
    )


def count_tokens(training: Training) -> list[int]:
    """Tokens of each of the first batches, padding not counted."""
    config = training.config
    batches = min(config.steps, max(1, COUNTED // config.batch_size))
    return [
        int(
            tokenize_batch(training.student, training.schedule.batch(step), config.max_length)[
                "attention_mask"
            ].sum()
        )
        for step in range(batches)
    ]


def time_tokens(training: Training, tokens_per_step: float) -> tuple[float, int]:
    """Seconds a token takes in a step, and how many examples a trial step had."""
    micro_batch = training.schedule.batch(0).part(0, training.config.accumulation)
    part = micro_batch.part(0, max(1, len(micro_batch) // TRIAL))
    training.backward(part)  # the first time much is set up
    began = time.perf_counter()
    _, tokens = training.backward(part)
    seconds_per_token = (time.perf_counter() - began) / tokens
    training.optimizer.zero_grad(set_to_none=True)
    if seconds_per_token * tokens_per_step > PATIENCE:
        return seconds_per_token, len(part)
    records = [training.step(step) for step in (1, 2, 3)]
    rates = [float(record["tokens_per_second"]) for record in records]
    return 1 / statistics.median(rates), training.config.batch_size


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most, or that PyTorch has of the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
