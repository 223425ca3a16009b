"""Evaluation with mteb's own runner: the offline suite, folders of tasks, and mteb's tasks and benchmarks."""

from workbench.evaluation.encoder import EmbeddingCache, MtebEncoder
from workbench.evaluation.results import Results, retention_table, write_results
from workbench.evaluation.runner import DEFAULT_PRECISIONS, evaluate
from workbench.evaluation.sources import resolve_tasks

__all__ = [
    "DEFAULT_PRECISIONS",
    "EmbeddingCache",
    "MtebEncoder",
    "Results",
    "evaluate",
    "resolve_tasks",
    "retention_table",
    "write_results",
]
