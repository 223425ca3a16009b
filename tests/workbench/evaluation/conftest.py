"""An embedder whose vectors are written down, and tasks small enough to score by hand."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch

from workbench.catalog.tasks import (
    ClassificationData,
    ClusteringData,
    RetrievalData,
    StsData,
    TaskEntry,
)


class TableEmbedder:
    """What evaluation uses of a BitEmbedder, with vectors looked up by text and prompts that change nothing."""

    kernel = "table"
    pooling = "mean"
    output_map = centre = rotation = None
    max_length = 64
    device = torch.device("cpu")

    def __init__(self, table: Mapping[str, Sequence[float]], prompts: dict[str, str] | None = None):
        self.table = {text: np.asarray(x, dtype=np.float32) for text, x in table.items()}
        self.dimension = len(next(iter(self.table.values())))
        self.prompts = prompts or {}
        self.model = torch.nn.Linear(2, 2)
        self.calls: list[tuple[str, list[str]]] = []

    def encode(self, texts, prompt="", batch_size=32, show_progress_bar=None):
        self.calls.append((prompt, list(texts)))
        x = np.stack([self.table[text] for text in texts])
        return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def table_embedder() -> Callable[..., TableEmbedder]:
    return TableEmbedder


@pytest.fixture
def random_table() -> Callable[..., dict[str, np.ndarray]]:
    """`random_table(texts, dim, seed)`: Gaussian vectors, cluster-free."""

    def make(texts: Sequence[str], dim: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
        x = np.random.default_rng(seed).standard_normal((len(texts), dim), dtype=np.float32)
        return dict(zip(texts, x, strict=True))

    return make


def _entry(name, kind, data) -> TaskEntry:
    return TaskEntry(name, kind, "made up", "none", lambda: data)


@pytest.fixture
def retrieval_entry() -> TaskEntry:
    corpus = {f"d{i}": ("" if i % 2 else f"title {i}", f"document {i}") for i in range(40)}
    queries = {f"q{i}": f"query {i}" for i in range(12)}
    qrels = {f"q{i}": {f"d{2 * i}": 1, f"d{2 * i + 1}": 2} for i in range(12)}
    return _entry("ret_small", "retrieval", RetrievalData(corpus, queries, qrels))


@pytest.fixture
def sts_entry() -> TaskEntry:
    rows = [(f"left {i}", f"right {i}", float((7 * i) % 11), "odd" if i % 2 else "even") for i in range(30)]
    return _entry("sts_small", "sts", StsData(rows))


@pytest.fixture
def classification_entry() -> TaskEntry:
    labels = ["red", "green", "blue"]
    train = [(f"train {i}", labels[i % 3]) for i in range(90)]
    test = [(f"test {i}", labels[i % 3]) for i in range(60)]
    return _entry("cls_small", "classification", ClassificationData(train, test))


@pytest.fixture
def clustering_entry() -> TaskEntry:
    texts = [f"item {i}" for i in range(60)]
    return _entry("clu_small", "clustering", ClusteringData(texts, [f"group {i % 4}" for i in range(60)]))


@pytest.fixture
def entries(retrieval_entry, sts_entry, classification_entry, clustering_entry) -> list[TaskEntry]:
    return [retrieval_entry, sts_entry, classification_entry, clustering_entry]


@pytest.fixture
def entry_texts() -> Callable[[Sequence[TaskEntry]], list[str]]:
    """Every text that mteb will ask for, titles joined as mteb joins them."""

    def collect(entries: Sequence[TaskEntry]) -> list[str]:
        texts: list[str] = []
        for entry in entries:
            data = entry.load()
            if isinstance(data, RetrievalData):
                texts += data.queries.values()
                texts += [f"{title} {text}".strip() for title, text in data.corpus.values()]
            elif isinstance(data, StsData):
                texts += [text for row in data.rows for text in row[:2]]
            elif isinstance(data, ClassificationData):
                texts += [text for text, _ in [*data.train, *data.test]]
            else:
                texts += data.texts
        return texts

    return collect
