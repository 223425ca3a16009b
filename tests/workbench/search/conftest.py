"""Vectors in clusters, as texts have them, stored in any format."""

from collections.abc import Callable

import numpy as np
import pytest

from bitembed_core import PackedEmbeddings, StorageFormat
from workbench.search import PackedIndex


@pytest.fixture(scope="session")
def clusters() -> Callable[..., np.ndarray]:
    """`clusters(n, dim, seed)`: float32 (n, dim) around 20 centres; seeds share the centres."""

    def make(n: int, dim: int = 20, seed: int = 0) -> np.ndarray:
        centres = np.random.default_rng(99).standard_normal((20, dim))
        own = np.random.default_rng(seed)
        return (centres[own.integers(20, size=n)] + own.standard_normal((n, dim))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def stored(clusters) -> Callable[..., PackedEmbeddings]:
    def make(precision: str = "int4", n: int = 500, dim: int = 20) -> PackedEmbeddings:
        return StorageFormat(precision, dim).encode(clusters(n, dim))

    return make


@pytest.fixture(scope="session")
def indexed(stored) -> Callable[..., PackedIndex]:
    def make(precision: str = "int4", n: int = 500, dim: int = 20) -> PackedIndex:
        return PackedIndex(
            stored(precision, n, dim), [f"id{i}" for i in range(n)], [f"text {i}" for i in range(n)]
        )

    return make
