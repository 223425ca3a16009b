"""Indexes that are exported, and what an engine has to find in them."""

from collections.abc import Callable
from datetime import date

import numpy as np
import pytest

from bitembed_core import StorageFormat
from workbench.search import PackedIndex

ROWS, DIM = 1200, 100  # a dimension that ends within a byte
ODD = [
    "plain",
    "tab\tnew line\nreturn\rboth\r\n",
    "back\\slash \\N \\.",
    "\\.",
    'quo"tes \'and\' $$; -- /* {"json": [1, 2]}',
    "per cent %s % %2F /a/../b?c=d#e&f",
    "üñïçødé 漢字 🧪 \u2028 line separator",
    "  spaces  ",
]


@pytest.fixture(scope="session")
def exported(clusters) -> Callable[[str], PackedIndex]:
    """`exported("int8")`: an index in clusters; the first ids, texts and metadata are odd ones."""

    def make(precision: str) -> PackedIndex:
        ids = [*ODD, *(f"id{i}" for i in range(len(ODD), ROWS))]
        texts = [*reversed(ODD), *(f"text {i}" for i in range(len(ODD), ROWS))]
        metadata = [{"number": i, "share": i / 7, 'a "name"': text} for i, text in enumerate(ODD)]
        metadata += [
            {"number": i, "is_even": i % 2 == 0, "day": date(2026, 1, 1 + i % 28)} for i in range(ROWS - 10)
        ]
        metadata += [{}, {"vector": "not the vector"}]
        return PackedIndex(StorageFormat(precision, DIM).encode(clusters(ROWS, DIM)), ids, texts, metadata)

    return make


@pytest.fixture(scope="session")
def queries(clusters) -> np.ndarray:
    return clusters(12, DIM, seed=1)
