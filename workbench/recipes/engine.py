"""The training loop that the stages share: batches in, records out."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.layouts import Layout
from bitembed_core.conversion import annealed, bit_linears
from workbench.recipes.batches import BatchSchedule, ExampleBatch
from workbench.recipes.checkpoints import load_checkpoint, save_checkpoint, trained_parameters
from workbench.recipes.chunked import chunked_losses
from workbench.recipes.dev_set import DevSet
from workbench.recipes.distributed import rank, sum_over_processes, world_size
from workbench.recipes.forward import (
    Encoder,
    autocast,
    checkpoint_layers,
    embed_batch,
    forward_dtype,
    most_groups,
    tokenize_batch,
)
from workbench.recipes.imitated import Imitated
from workbench.recipes.mapped import check_mappable, map_to_teacher
from workbench.recipes.objective import Objective
from workbench.recipes.optimizer import (
    learning_rate_factor,
    make_optimizer,
    quantization_pressure,
    weight_decay_at,
)
from workbench.recipes.settings import Record, TrainingConfig
from workbench.recipes.sharding import WholeCopies, prepare, whole
from workbench.recipes.watch import WeightWatch, activation_ranges
from workbench.runs import Run

logger = logging.getLogger("bitembed")


class TrainingDiverged(RuntimeError):
    """A loss or a gradient became NaN or infinite. The parameters of that step were not updated or saved."""


@dataclass
class Training:
    """A student, its teacher if it has one, and what they learn from.

    Modules stay in evaluation mode: there is no dropout, so teacher and student see the same function of
    the text that a user will, and a step depends on nothing random.

    A step's batch is cut into `accumulation` micro-batches and each of these over the processes,
    contiguously. All texts of a micro-batch go through the model in one forward, short and long ones apart.
    Candidates are shared over processes but not over micro-batches: the loss is the mean of the
    micro-batches' losses, each with its own in-batch negatives. For more negatives take more processes, not
    more micro-batches.

    `teacher_vectors` is a folder that keeps the teacher's vectors of the texts. With `mapped_texts` the trained student's
    vectors are mapped to the teacher's, as its vectors of these texts have it.
    """

    stage: str
    config: TrainingConfig
    run: Run
    accelerator: Accelerator
    schedule: BatchSchedule
    objective: Objective
    student: BitEmbedder
    teacher: BitEmbedder | None = None
    dev_set: DevSet | None = None
    teacher_vectors: Path | None = None
    mapped_texts: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.stages_before = list(self.student.provenance.stages)
        self.teacher_dev_ndcg: float | None = None
        if self.config.batch_size % (self.config.accumulation * world_size()):
            raise ValueError(
                f"batch_size {self.config.batch_size} does not divide into {self.config.accumulation} "
                f"micro-batches on {world_size()} processes"
            )
        if self.mapped_texts:
            check_mappable(self.student, self.teacher)
        layers = self._check_teacher(self.teacher) if self.teacher is not None else None
        student_layer, teacher_layer = layers or (None, None)
        self.dtype = forward_dtype(self.config.precision, self.accelerator.device)
        _prepare_for_training(self.student, self.config.freeze_token_embeddings)
        if self.config.gradient_checkpointing:
            checkpoint_layers(self.student.model)
        self.optimizer = make_optimizer(
            self.student.model,
            self.config.learning_rate,
            self.config.weight_decay,
            self.config.optimizer,
            self.dtype,
        )
        self.watch = WeightWatch(self.student.model, self.config.watch_every, self.config.steps)
        self.whole_copies = WholeCopies(self.student, self.accelerator)
        self.encoder = prepare(self.accelerator, Encoder(self.student, student_layer), self.optimizer)
        self.imitated: Imitated | None = None
        if self.teacher is not None:
            self.teacher.model.eval().requires_grad_(False)
            self.imitated = Imitated(Encoder(self.teacher, teacher_layer), self.dtype, self.teacher_vectors)

    def _check_teacher(self, teacher: BitEmbedder) -> tuple[int, int] | None:
        """The layers whose relations are compared, once it is sure that the teacher can teach this student."""
        depths = [embedder.model.config.num_hidden_layers for embedder in (self.student, teacher)]
        layers = self.objective.layers(*depths)
        self.same_tokens = _same_tokens(self.student, teacher)
        if layers is not None and not self.same_tokens:
            raise ValueError(
                "attention relations are compared token by token, but teacher and student have different "
                "tokenizers or prompts: take another teacher, or set relation_weight to 0"
            )
        if self.objective.regression_weight and teacher.dimension != self.student.dimension:
            raise ValueError(
                f"the teacher's embeddings have {teacher.dimension} dimensions and the student's "
                f"{self.student.dimension}: set regression_weight to 0, similarity_weight still teaches"
            )
        return layers

    def records(self) -> Iterator[Record]:
        """Train from the newest checkpoint, or from the beginning; one record per step.

        What a record tells of is on disk when it is yielded. The last step also writes the embedder; a run
        that had come to its end yields its last record again. A run may end before its last step (`patience`), and a
        pause ends it after the step that it comes in, with a checkpoint to go on from.
        """
        checkpoints = self.run.checkpoints()
        done = load_checkpoint(checkpoints[-1], self.student.model, self.optimizer) if checkpoints else 0
        if self.accelerator.is_main_process:
            self.run.keep_records(done)
        self.watch.begin(done)
        so_far = self.run.records()[:done]
        if so_far and "latent" in so_far[-1]:
            self.export()
            yield so_far[-1]
            return
        scores = [float(record["dev_ndcg"]) for record in so_far if "dev_ndcg" in record]
        before = {} if done else self.measured(0)
        for step in range(done, self.config.steps):
            record = self.step(step) | self.measured(step + 1)
            if step == 0:
                record |= {f"{name}_before": value for name, value in before.items()}
            if "dev_ndcg" in record:
                scores.append(float(record["dev_ndcg"]))
            is_last = step + 1 == self.config.steps or self.without_progress(scores)
            if is_last:
                record |= self.folders
            self.report(record)
            if self.watch.due(step + 1):
                self.report_layers(step)
            pause = not is_last and self.pause_requested()
            if is_last or pause or (step + 1) % self.config.save_every == 0:
                self.save(step + 1)
            if is_last:
                self.export()
            if pause:
                logger.info("%s: paused after step %d of %d", self.stage, step + 1, self.config.steps)
            yield record
            if is_last or pause:
                return

    def pause_requested(self) -> bool:
        """Whether the run is to be paused now; all processes say the same."""
        asked = self.accelerator.is_main_process and self.run.pause_requested
        return bool(sum_over_processes(torch.tensor(float(asked), device=self.accelerator.device)))

    def measured(self, step: int) -> Record:
        """The score on held-out examples after `step` steps, if it is due."""
        every = self.config.dev_every
        if self.dev_set is None or every is None or (step % every and step != self.config.steps):
            return {}
        with self.whole_copies.copy(self.encoder) as student:
            score = self.dev_set.ndcg(student, self.config.max_length)
        if self.teacher is None:
            return {"dev_ndcg": score}
        if self.teacher_dev_ndcg is None:
            self.teacher_dev_ndcg = self.dev_set.ndcg(self.teacher, self.config.max_length)
        return {"dev_ndcg": score, "dev_retention": score / max(self.teacher_dev_ndcg, 1e-9)}

    def without_progress(self, scores: list[float]) -> bool:
        """Whether the last `patience` scores are no better than the best one before them."""
        patience = self.config.patience
        if patience is None or len(scores) <= patience:
            return False
        return max(scores[-patience:]) <= max(scores[:-patience])

    def step(self, step: int) -> Record:
        """One optimiser step; `step` counts from 0, the record's from 1."""
        began = time.perf_counter()
        config = self.config
        factor = learning_rate_factor(step, config.steps, config.warmup_share, config.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor
        self.optimizer.param_groups[0]["weight_decay"] = weight_decay_at(
            step, config.steps, config.weight_decay, config.weight_decay_until
        )
        pressure = quantization_pressure(step, config.steps, config.pressure_warmup_share)
        batch = self.schedule.batch(step)
        sums: dict[str, Tensor] = {}
        tokens = 0
        for number in range(config.accumulation):
            part = batch.part(number, config.accumulation).part(rank(), world_size())
            is_last = number + 1 == config.accumulation
            no_sync = nullcontext() if is_last else self.accelerator.no_sync(self.encoder)
            with no_sync, annealed(self.student.model, pressure):
                losses, part_tokens = self.backward(part)
            tokens += part_tokens
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / config.accumulation
        losses_by_name = _mean_over_processes(sums)
        parameters = trained_parameters(self.student.model).values()
        grad_norm = float(whole(nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)))
        self.check_finite(step, batch, losses_by_name | {"gradient": grad_norm})
        with self.watch.step(step + 1) as weights:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        tokens = int(sum_over_processes(torch.tensor(tokens, device=self.accelerator.device)))
        contrastive = losses_by_name["contrastive"]
        return {
            "step": step + 1,
            "steps": config.steps,
            "stage": self.stage,
            "source": batch.source,
            **losses_by_name,
            "relation_ratio": losses_by_name.get("relations", 0.0) / contrastive if contrastive else 0.0,
            "grad_norm": grad_norm,
            "lr": config.learning_rate * factor,
            "pressure": pressure,
            "tokens_per_second": tokens / seconds,
            **weights,
            "seconds": seconds,
        }

    def backward(self, part: ExampleBatch) -> tuple[dict[str, Tensor], int]:
        """Add the gradients of a micro-batch; returns its losses by name and the number of its tokens."""
        tokens = tokenize_batch(self.student, part, self.config.max_length)
        teacher_tokens = tokens
        if self.teacher is not None and not self.same_tokens:
            teacher_tokens = tokenize_batch(self.teacher, part, self.config.max_length)
        chunk, most = self.config.chunk_tokens, len(tokens["input_ids"]) * self.config.max_length
        if chunk is None or chunk >= most:  # the same decision on all processes, whose longest texts differ
            groups, size = most_groups(tokens), len(part)
            student = embed_batch(self.encoder, tokens, size, self.dtype, groups)
            teacher = self.imitated.embed_batch(teacher_tokens, size, groups) if self.imitated else None
            losses = self.objective(student, teacher, part.in_batch)
            total = torch.stack(list(losses.terms.values())).sum()
            self.accelerator.backward(total / self.config.accumulation)
        else:
            losses = chunked_losses(
                self.objective,
                self.encoder,
                tokens,
                (self.imitated, teacher_tokens) if self.imitated else None,
                len(part),
                part.in_batch,
                chunk,
                self.dtype,
                1 / self.config.accumulation,
                self.accelerator.no_sync,
            )
            total = torch.stack(list(losses.terms.values())).sum()
        return {"loss": total, **losses.terms, **losses.by_bits}, int(tokens["attention_mask"].sum())

    def check_finite(self, step: int, batch: ExampleBatch, values: dict[str, float]) -> None:
        """Raise TrainingDiverged if any of `values` is NaN or infinite; all processes see the same ones."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        checkpoints = self.run.checkpoints()
        kept = (
            f"{checkpoints[-1]} is the last good checkpoint" if checkpoints else "there is no checkpoint yet"
        )
        shown = [f"{index} {query[:60]!r}" for index, query in zip(batch.indices, batch.queries, strict=True)]
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        raise TrainingDiverged(
            f"{' and '.join(bad)} not finite in step {step + 1} of {self.stage}; {kept}. A lower learning_rate, "
            "a longer warm-up or precision float32 may help, or look at the texts of the batch, "
            f"of source {batch.source!r}: {', '.join(shown[:8])}{more}"
        )

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps and drop old ones."""
        if self.imitated:
            self.imitated.write()
        is_main = self.accelerator.is_main_process
        save_checkpoint(self.run.checkpoint_path(step), self.student.model, self.optimizer, step, is_main)
        if is_main:
            self.run.prune_checkpoints(self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    @property
    def description(self) -> dict[str, Any]:
        """This stage, as a model card tells it."""
        kept = ("steps", "batch_size", "learning_rate", "max_length", "seed")
        settings = {name: getattr(self.config, name) for name in kept}
        data = {"data": ", ".join(f"{s.name} ({s.size})" for s in self.schedule.sources)}
        taught = {"teacher": self.teacher.provenance.base_model} if self.teacher is not None else {}
        mapped = {"output map fitted to": f"{len(self.mapped_texts)} texts"} if self.mapped_texts else {}
        return {"stage": self.stage, **data, **taught, **settings, **mapped}

    @property
    def folders(self) -> Record:
        """Where the embedder goes: for further training, and packed if it is ternary."""
        latent: Record = {"latent": str(self.run.latent)}
        return latent | {"model": str(self.run.model)} if self.student.is_ternary else latent

    def export(self) -> None:
        """Write the embedder to its folders, as far as they are not there."""
        folders: dict[Layout, Path] = {"latent": self.run.latent}
        if self.student.is_ternary:
            folders["packed"] = self.run.model
        missing = {layout: folder for layout, folder in folders.items() if not folder.exists()}
        with self.whole_copies.copy(self.encoder) as student:
            if self.accelerator.is_main_process and missing:
                student.provenance.stages = [*self.stages_before, self.description]
                if self.mapped_texts and self.teacher is not None:
                    map_to_teacher(student, self.teacher, self.mapped_texts, self.config.max_length)
                for layout, folder in missing.items():
                    student.save_pretrained(folder, layout=layout)
        self.accelerator.wait_for_everyone()

    def report_layers(self, step: int) -> None:
        """Write to the run how the layers fared up to step `step` (from 0), and what they make of its first texts."""
        batch = self.schedule.batch(step)
        texts = tokenize_batch(self.student, batch.part(0, max(1, len(batch) // 8)), self.config.max_length)

        def forward() -> None:
            with autocast(texts["input_ids"].device, self.dtype):
                self.encoder([texts])

        ranges = activation_ranges(bit_linears(self.student.model), forward, texts["attention_mask"])
        layers = {name: weights | ranges[name] for name, weights in self.watch.report().items()}
        if self.accelerator.is_main_process:
            self.run.log_layers({"step": step + 1, "since": self.watch.since, "layers": layers})
        self.watch.begin(step + 1)

    def report(self, record: Record) -> None:
        """Write the record to the run, to the tracker, and now and then to the log."""
        if not self.accelerator.is_main_process:
            return
        self.run.log(record)
        step = int(record["step"])
        if self.config.tracker:
            numbers = {name: value for name, value in record.items() if not isinstance(value, str)}
            self.accelerator.log(numbers, step=step)
        if step % self.config.log_every == 0 or step in (1, self.config.steps):
            names = ("loss", "contrastive", "similarity", "relations", "regression", "grad_norm", "dev_ndcg")
            shown = "  ".join(f"{name} {record[name]:.4g}" for name in names if name in record)
            logger.info(
                "%s %d/%d  %s  %.0f tokens/s",
                self.stage,
                step,
                self.config.steps,
                shown,
                record["tokens_per_second"],
            )


def _prepare_for_training(embedder: BitEmbedder, freeze_token_embeddings: bool) -> None:
    embedder.model.eval().requires_grad_(True)
    embedder.model.get_input_embeddings().requires_grad_(not freeze_token_embeddings)


def _same_tokens(student: BitEmbedder, teacher: BitEmbedder) -> bool:
    vocabularies = [embedder.tokenizer.get_vocab() for embedder in (student, teacher)]
    prompts = [[e.prompts.get(side, "") for side in ("query", "document")] for e in (student, teacher)]
    return vocabularies[0] == vocabularies[1] and prompts[0] == prompts[1]


def _mean_over_processes(values: dict[str, Tensor]) -> dict[str, float]:
    means = sum_over_processes(torch.stack(list(values.values())).double()) / world_size()
    return dict(zip(values, means.tolist(), strict=True))
