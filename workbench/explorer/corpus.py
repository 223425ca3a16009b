"""A small corpus to try storage formats on: texts, queries, and their vectors by a model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bitembed_core import BitEmbedder
from workbench.catalog.models import load_embedder
from workbench.catalog.task_data import RetrievalData, capped
from workbench.catalog.tasks import TASKS
from workbench.catalog.text import draw
from workbench.config import option
from workbench.search.planner import MOST_VECTORS
from workbench.search.text_files import read_texts
from workbench.search.text_source import SUFFIXES

RETRIEVAL_TASKS = tuple(name for name, entry in TASKS.items() if entry.type == "retrieval")


@dataclass(frozen=True)
class ExplorerConfig:
    """What it costs and saves to store vectors in fewer bits and dimensions: results, a live corpus, a plan."""

    results: tuple[str, ...] = option(
        ("kernels/benchmarks/results/*.json", "runs/*/results.json", "runs/*/*/results.json"),
        "results files of `bitembed evaluate` and of kernels/benchmarks/storage_formats.py, or patterns",
    )
    model: str = option("minilm", "model that encodes the corpus: a catalog name, a folder or a hub id")
    corpus: str = option(
        "ret_boolq", "a retrieval task of the catalog, or a JSONL or Parquet file of texts (field `text`)"
    )
    documents: int = option(1000, "texts of the corpus that are encoded")
    queries: int = option(
        100, "queries that recall is measured with; of a file, texts that are taken out of it"
    )
    max_length: int = option(128, "tokens read of each text")
    vectors: int = option(100_000_000, "vectors that are planned for, up to ten billion")
    memory_price: float = option(3.0, "money per month for a GB of memory; the default is only an example")
    disk_price: float = option(0.1, "money per month for a GB of disk; the default is only an example")
    seed: int = option(0, "decides which texts")
    out: str = option("runs/storage_explorer", "folder of the report and its numbers", changes_result=False)

    def __post_init__(self) -> None:
        for name in ("documents", "queries", "max_length", "vectors"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.vectors > MOST_VECTORS:
            raise ValueError(f"vectors must be at most {MOST_VECTORS:,}, not {self.vectors:,}")
        for name in ("memory_price", "disk_price"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")


@dataclass(frozen=True)
class Corpus:
    """Texts and queries, embedded: unit vectors float32 (n, d) and (q, d)."""

    name: str
    texts: Sequence[str]
    queries: Sequence[str]
    documents_ND: NDArray[np.float32] = field(repr=False)
    queries_QD: NDArray[np.float32] = field(repr=False)
    embedder: BitEmbedder = field(repr=False)


def encode_corpus(config: ExplorerConfig) -> Corpus:
    """The texts and queries that `config` asks for, encoded once by its model, with its prompts.

    Raises:
        FileNotFoundError, PackageUnavailable: there is no such model, corpus or file.
        ValueError: the corpus is neither a retrieval task nor a file of texts, or has too few of them.
    """
    texts, queries = read_corpus(config)
    embedder = load_embedder(config.model)
    embedder.max_length = min(embedder.max_length, config.max_length)
    return Corpus(
        config.corpus,
        texts,
        queries,
        np.asarray(embedder.encode_document(texts, show_progress_bar=False)),
        np.asarray(embedder.encode_query(queries, show_progress_bar=False)),
        embedder,
    )


def read_corpus(config: ExplorerConfig) -> tuple[list[str], list[str]]:
    """Texts and queries; what is blank is left out. Raises like `encode_corpus`."""
    if config.corpus.endswith(SUFFIXES):
        texts, queries = _from_file(config)
    elif config.corpus in RETRIEVAL_TASKS:
        texts, queries = _from_task(config)
    else:
        raise ValueError(
            f"no corpus called {config.corpus!r}: give a file ({', '.join(SUFFIXES)}) of texts, or a retrieval task "
            f"of the catalog: {', '.join(RETRIEVAL_TASKS)}"
        )
    texts, queries = ([text for text in some if text.strip()] for some in (texts, queries))
    if not texts or not queries:
        raise ValueError(
            f"{config.corpus} has {len(texts)} texts and {len(queries)} queries; both are needed"
        )
    return texts, queries


def _from_task(config: ExplorerConfig) -> tuple[list[str], list[str]]:
    data, _ = capped(
        TASKS[config.corpus].load(),
        max_documents=config.documents,
        max_queries=config.queries,
        seed=config.seed,
    )
    assert isinstance(data, RetrievalData)
    return [f"{title} {text}".strip() for title, text in data.corpus.values()], list(data.queries.values())


def _from_file(config: ExplorerConfig) -> tuple[list[str], list[str]]:
    """The first texts of a file, some of which are taken out to serve as queries."""
    wanted = config.documents + config.queries
    texts = list(dict.fromkeys(row.text for row in islice(read_texts(config.corpus), wanted)))
    queries = draw(texts, min(config.queries, len(texts) // 2), "queries", config.seed)
    asked = set(queries)
    return [text for text in texts if text not in asked], queries
