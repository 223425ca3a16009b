"""`make demo`: a ternary embedder from real MiniLM, on real text, through every stage, scored at every precision.

Convert, stage 1 with a teacher's signal, stage 2 with both distillations and all output precisions, evaluation of
teacher, untrained and trained model on the offline suite (shortened), a report, and a packed index that answers
questions. The teacher is MiniLM itself, which is an embedder already, so stage 0 has nothing to do here.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import transformers

from bitembed_core import BitEmbedder
from bitembed_core.files import atomic_path
from workbench.catalog.examples import unlabelled_texts
from workbench.catalog.models import load_embedder
from workbench.catalog.tasks import OFFLINE_SUITE, TASKS, RetrievalData, available_tasks
from workbench.config import option, parse_config
from workbench.evaluation import evaluate, retention_table, write_results
from workbench.evaluation.results import card_results
from workbench.figures import (
    Section,
    find_neighbours,
    loss_curves,
    nearest_neighbours,
    retention_by_precision,
    score_table,
    storage_versus_accuracy,
    training_health,
    write_report,
)
from workbench.recipes.distill import DistillConfig, distill
from workbench.recipes.pretrain import PretrainConfig, pretrain
from workbench.recipes.settings import Record
from workbench.search import encode_file

logger = logging.getLogger("bitembed")

TEACHER = "minilm"
EVALUATION_CAP = {
    "max_queries": 150,
    "max_documents": 500,
    "max_train": 400,
    "max_test": 400,
    "max_texts": 400,
}
QUESTIONS = (
    "Which program converts audio files from one format to another?",
    "Can I end the contract before it runs out?",
    "How does a compiler find errors in a program?",
)


@dataclass(frozen=True)
class DemoConfig:
    """Turn MiniLM into a ternary embedder on this machine, and see what every storage precision costs."""

    out: str = option("runs/demo", "folder for the runs, the model, the report and the index")
    pretrain_steps: int = option(480, "steps of stage 1")
    distill_steps: int = option(80, "steps of stage 2")
    training_length: int = option(64, "tokens read of each text in training")
    max_length: int = option(128, "tokens read of each text in evaluation, by all models, and in the index")
    indexed_texts: int = option(3000, "texts that go into the index")
    seed: int = option(0, "decides the order of the examples")


def demo(config: DemoConfig) -> dict[str, float]:
    """Run the whole path; returns the mean score by column (teacher, untrained, precisions)."""
    out = Path(config.out)
    with stage("data: real text and real evaluation sets, from package registries"):
        tasks, left_out = available_tasks(OFFLINE_SUITE)
        logger.info(
            "%d evaluation tasks; training text that shares ten words in a row with them is dropped",
            len(tasks),
        )
    untrained = untrained_model(config)
    with stage(f"stage 1: {config.pretrain_steps} steps on text pairs, imitating the teacher"):
        records = list(pretrain(pretrain_config(config)))
    with stage(
        f"stage 2: {config.distill_steps} steps on triplets, both distillations, all output precisions"
    ):
        records += list(distill(distill_config(config)))
    student, teacher = load_embedder(str(out / "distill")), load_embedder(TEACHER)
    for embedder in (student, teacher, untrained):
        embedder.max_length = config.max_length
    with stage("evaluation with mteb, through really packed codes"):
        results = evaluate(
            student,
            tasks,
            teacher=teacher,
            cap=EVALUATION_CAP,
            baselines={"untrained": untrained},
            name="ternary MiniLM (demo)",
            teacher_name=TEACHER,
            progress=logger.info,
        )
        results["left_out"] = left_out
        write_results(out / "results.json", results)
    student.provenance.results = card_results(results)
    student.save_pretrained(out / "model", layout="packed")
    print(f"\n{retention_table(results)}\n")
    with stage("report"):
        report(out / "report.html", config, results, records, (teacher, untrained, student))
    with stage(f"index: {config.indexed_texts} real texts at int8, three questions"):
        search_demo(config, student)
    print(
        f"\nmodel   {out / 'model'}\nreport  {out / 'report.html'}\nresults {out / 'results.json'}\n"
        f"index   {out / 'index.safetensors'}\n\ntry: .venv/bin/bitembed search --index {out / 'index.safetensors'} "
        f"--model {out / 'model'} --query 'play music' --top 3"
    )
    return results["mean"]


def pretrain_config(config: DemoConfig) -> PretrainConfig:
    """Stage 1, sized for two cores and some minutes.

    In so few steps regression on the teacher's embedding does nearly all of the work: the in-batch losses, which
    matter in long runs, get little weight, and many small batches teach more than few large ones.
    """
    return PretrainConfig(
        backbone=TEACHER,
        teacher=TEACHER,
        out=f"{config.out}/pretrain",
        pairs="demo",
        steps=config.pretrain_steps,
        batch_size=24,
        learning_rate=6e-4,
        max_length=config.training_length,
        contrastive_weight=0.02,
        similarity_weight=0.0,
        exclude_tasks="offline",
        seed=config.seed,
        save_every=config.pretrain_steps,
        overwrite=True,
    )


def distill_config(config: DemoConfig) -> DistillConfig:
    """Stage 2, sized likewise; the relation temperature is BitDistill's kind, so its weight is not the paper's 1e4."""
    return DistillConfig(
        backbone=f"{config.out}/pretrain",
        teacher=TEACHER,
        out=f"{config.out}/distill",
        triplets="demo",
        steps=config.distill_steps,
        batch_size=12,
        hard_negatives=2,
        learning_rate=2e-4,
        max_length=config.training_length,
        regression_weight=5.0,
        similarity_weight=0.05,
        contrastive_weight=0.02,
        relation_weight=1.0,
        relation_heads=12,
        relation_temperature=0.1,
        exclude_tasks="offline",
        seed=config.seed,
        save_every=config.distill_steps,
        overwrite=True,
    )


def untrained_model(config: DemoConfig) -> BitEmbedder:
    """MiniLM converted with calibrated norms and never trained: what training has to make good."""
    with stage("conversion: every linear of every block becomes ternary"):
        embedder = load_embedder(TEACHER)
        report = embedder.convert(calibration_texts=unlabelled_texts("demo", 128, config.seed))
        embedder.freeze()
        logger.info(
            "%d layers, %.1f M ternary weights; %.1f M stay in floating point (token table, norms, biases)",
            len(report.ternary),
            report.ternary_weights / 1e6,
            report.floating_point_weights / 1e6,
        )
    return embedder


def report(
    path: Path, config: DemoConfig, results: dict, records: list[Record], models: tuple[BitEmbedder, ...]
) -> None:
    """Write the self-contained HTML report."""
    teacher, untrained, student = models
    texts = unlabelled_texts("demo", 600, config.seed)
    before, raw, after = (find_neighbours(model, QUESTIONS, texts) for model in (teacher, untrained, student))
    kept = 100 * results["retention"]["float16"]
    summary = (
        f"all-MiniLM-L6-v2 with ternary weights after {config.pretrain_steps} + {config.distill_steps} training steps "
        f"keeps {kept:.1f} % of the mean score of the original. Kernel: {results['kernel']}; "
        f"commit {results['commit']}; {results['environment'].get('cpu', 'CPU')}."
    )
    write_report(
        path,
        "A ternary MiniLM: what each step costs and gains",
        summary,
        [
            Section(
                "Scores", "Every task at every storage precision, scored by mteb.", [score_table(results)]
            ),
            Section(
                "Storage against accuracy",
                "Bytes of one stored vector, scales included, and the mean score that is left.",
                [storage_versus_accuracy(results, student.dimension), retention_by_precision(results)],
            ),
            Section("Training", "", [loss_curves(records), training_health(records)]),
            Section(
                "Nearest neighbours",
                "The same questions to the original, to the converted but untrained, and to the trained model.",
                [nearest_neighbours(before, after, untrained=raw)],
            ),
        ],
    )


def search_demo(config: DemoConfig, student: BitEmbedder) -> None:
    """Encode real texts into a packed index and answer three questions from it."""
    out = Path(config.out)
    with atomic_path(out / "texts.jsonl") as fresh, fresh.open("w", encoding="utf-8") as lines:
        for number, text in enumerate(searchable_texts(config)):
            lines.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
    index = encode_file(student, out / "texts.jsonl", out / "index.safetensors", "int8")
    print(f"\n{len(index)} texts in {index.vectors.nbytes / 1e6:.2f} MB of vectors")
    for question, hits in zip(
        QUESTIONS, index.search(student.encode_query(list(QUESTIONS)), top=3), strict=True
    ):
        print(f"\n{question}")
        for hit in hits:
            print(f"  {hit.score:.3f}  {' '.join(hit.text.split())[:110]}")


def searchable_texts(config: DemoConfig) -> Iterator[str]:
    """Documents of the retrieval tasks and of the training sources, as many as asked for."""
    texts = unlabelled_texts("demo", config.indexed_texts, config.seed)
    contracts = TASKS["ret_consumer_contracts"].load()
    assert isinstance(contracts, RetrievalData)
    texts = [text for _, text in contracts.corpus.values()] + texts
    yield from texts[: config.indexed_texts]


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Say what begins and how long it took."""
    logger.info("== %s", title)
    began = time.perf_counter()
    yield
    logger.info("   %.0f s", time.perf_counter() - began)


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logger.setLevel(logging.INFO)
    config, _ = parse_config(DemoConfig)
    began = time.perf_counter()
    mean = demo(config)
    print(f"\n{(time.perf_counter() - began) / 60:.1f} minutes; mean score {100 * mean['float16']:.1f}")


if __name__ == "__main__":
    main()
