"""What an index of so many vectors needs, for every storage format: memory, disk, and time per query.

Times are estimates for exact search, from rates that this machine reaches: a query reads every stored byte, and multiplies
every component. A batch of queries shares the reading, and the looking up that trellis codes need. Money follows from
prices of memory and disk.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from bitembed_core import StorageFormat
from bitembed_core.ops import library, trellis
from bitembed_core.ops.packed_scores import PackedScores
from bitembed_core.storage import PRECISIONS
from bitembed_core.storage.precisions import SCHEMES

MOST_VECTORS = 10_000_000_000
SAMPLE_VECTORS, SAMPLE_QUERIES = 50_000, 64


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second: bytes read from memory; products of codes, and of float32 numbers; values that codes
    of a trellis stand for."""

    bytes_read: float
    code_products: float
    float_products: float
    trellis_values: float
    threads: int


@dataclass(frozen=True)
class Prices:
    """Money per month for a GB (1e9 bytes)."""

    memory: float
    disk: float


@dataclass(frozen=True)
class Plan:
    """One format. Bytes are of all replicas together; seconds are of one query among `queries_together` on one replica."""

    precision: str
    bytes_per_vector: int
    bytes_in_memory: int
    bytes_on_disk: int
    bytes_read_per_query: int
    seconds_per_query: float
    limit: str  # "memory" or "arithmetic", whichever takes longer

    def monthly(self, prices: Prices) -> float:
        """What memory and disk cost in a month."""
        return (self.bytes_in_memory * prices.memory + self.bytes_on_disk * prices.disk) / 1e9


def plan(
    vectors: int,
    dim: int,
    rates: Rates,
    replicas: int = 1,
    precisions: Iterable[str] = PRECISIONS,
    queries_together: int = 1,
    id_bytes: int = 16,
    rescore: str | None = None,
) -> list[Plan]:
    """The formats side by side, the widest first.

    Args:
        vectors: up to ten billion.
        rates: see `measure_rates`.
        replicas: copies of the whole index.
        queries_together: how many queries arrive at once and share the reading.
        id_bytes: of an id on disk and in memory, beside the vector.
        rescore: a format that is kept on disk as well, to rescore the candidates of every narrower one. The few rows
            of it that a query reads are not counted.

    Raises:
        ValueError: a number that is not positive, too many vectors, or an unknown precision.
    """
    for name, number in (
        ("vectors", vectors),
        ("replicas", replicas),
        ("queries_together", queries_together),
    ):
        if number < 1:
            raise ValueError(f"{name} must be positive, not {number}")
    if vectors > MOST_VECTORS:
        raise ValueError(f"plans go up to {MOST_VECTORS:,} vectors, not {vectors:,}")
    wide = 0 if rescore is None else StorageFormat(rescore, dim).bytes_per_vector
    found = []
    for precision in precisions:
        form = StorageFormat(precision, dim)
        beside = wide if wide > form.bytes_per_vector else 0
        stored = vectors * form.bytes_per_vector
        products = rates.code_products if form.has_scale else rates.float_products
        reading = stored / rates.bytes_read / queries_together
        computing = vectors * form.kept / products
        if form.scheme is not None and form.scheme.trellis is not None:
            computing += vectors * form.kept / rates.trellis_values / queries_together
        found.append(
            Plan(
                precision,
                form.bytes_per_vector,
                replicas * (stored + vectors * id_bytes),
                replicas * (stored + vectors * (id_bytes + beside)),
                stored,
                max(reading, computing),
                "memory" if reading > computing else "arithmetic",
            )
        )
    return sorted(found, key=lambda row: -row.bytes_per_vector)


def measure_rates(dim: int = 384) -> Rates:
    """Rates of this machine with torch's number of threads; takes about a second."""
    x = np.random.default_rng(0).standard_normal((SAMPLE_VECTORS, dim), dtype=np.float32)
    queries = x[:SAMPLE_QUERIES] + 1
    packed = PackedScores(StorageFormat("int2", dim).encode(x), "cpu")
    products = SAMPLE_VECTORS * SAMPLE_QUERIES * dim
    code = SCHEMES["trellis-1bit"].trellis
    assert code is not None
    codes = torch.from_numpy(
        np.random.default_rng(1).integers(0, 256, (SAMPLE_VECTORS, code.trellis.code_bytes(dim)), np.uint8)
    )
    seconds = [
        _seconds(lambda: packed.best(queries, 10, integer=True)),
        _seconds(lambda: queries @ x.T),
        _seconds(lambda: trellis.levels(codes, dim, code.trellis)),
    ]
    if library.available():
        read = 1e9 * library.native().bitembed_read_gbs(library.threads())
    else:
        read = x.nbytes / _seconds(x.sum)
    values = SAMPLE_VECTORS * dim / seconds[2]
    return Rates(read, products / seconds[0], products / seconds[1], values, torch.get_num_threads())


def _seconds(run: object) -> float:
    """The fastest of three calls."""
    assert callable(run)
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return min(taken)
