"""Plans: the arithmetic, and rates that a machine can have."""

import pytest

from bitembed_core import StorageFormat
from workbench.search.planner import MOST_VECTORS, Prices, Rates, measure_rates, plan

RATES = Rates(bytes_read=1e10, code_products=1e12, float_products=1e11, trellis_values=1e9, threads=2)


def test_by_hand() -> None:
    rows = {row.precision: row for row in plan(1_000_000, 384, RATES, replicas=3, id_bytes=8)}
    int2 = rows["int2"]
    assert int2.bytes_per_vector == 96 + 4
    assert int2.bytes_in_memory == int2.bytes_on_disk == 3 * (100 + 8) * 1_000_000
    assert int2.bytes_read_per_query == 100_000_000
    assert int2.seconds_per_query == pytest.approx(0.01)  # 100 MB at 10 GB/s; 384 M products take 0.4 ms
    assert int2.limit == "memory"
    together = {row.precision: row for row in plan(1_000_000, 384, RATES, queries_together=100)}
    assert together["int2"].limit == "arithmetic"
    assert together["int2"].seconds_per_query == pytest.approx(384e6 / 1e12)
    assert together["float32"].seconds_per_query == pytest.approx(384e6 / 1e11)
    looked_up = 384e6 / 1e9 / 100
    assert together["trellis-2bit"].seconds_per_query == pytest.approx(384e6 / 1e12 + looked_up)


def test_money_and_codes_to_rescore_with_on_disk() -> None:
    rows = {row.precision: row for row in plan(10**9, 384, RATES, replicas=2, id_bytes=0, rescore="int8")}
    binary, wide = rows["binary"], rows["float16"]
    assert binary.bytes_in_memory == 2 * 10**9 * (384 // 8 + 4)
    assert binary.bytes_on_disk == 2 * 10**9 * (384 // 8 + 4 + 384 + 4)
    assert wide.bytes_in_memory == wide.bytes_on_disk == 2 * 10**9 * 768  # nothing to gain from int8
    assert rows["int8"].bytes_on_disk == rows["int8"].bytes_in_memory
    assert binary.monthly(Prices(memory=3, disk=0.5)) == pytest.approx(2 * 52 * 3 + 2 * 440 * 0.5)


def test_ten_billion_and_every_format() -> None:
    rows = plan(MOST_VECTORS, 1024, RATES)
    assert [row.bytes_per_vector for row in rows] == sorted((r.bytes_per_vector for r in rows), reverse=True)
    for row in rows:
        assert row.bytes_read_per_query == MOST_VECTORS * StorageFormat(row.precision, 1024).bytes_per_vector


def test_numbers_that_make_no_plan() -> None:
    for wrong in ({"vectors": 0}, {"replicas": 0}, {"queries_together": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            plan(**({"vectors": 5, "dim": 8, "rates": RATES} | wrong))
    with pytest.raises(ValueError, match="up to 10,000,000,000"):
        plan(MOST_VECTORS + 1, 8, RATES)
    with pytest.raises(ValueError, match="unknown precision"):
        plan(5, 8, RATES, precisions=["int3"])


def test_measured_rates_are_plausible() -> None:
    rates = measure_rates(64)
    assert 1e8 < rates.bytes_read < 1e13
    assert 1e7 < rates.float_products < 1e14
    assert 1e7 < rates.code_products < 1e15
    assert 1e6 < rates.trellis_values < 1e13
