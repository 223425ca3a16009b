"""Metadata stay with their rows through every change of an index, whatever their types."""

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitembed_core import StorageFormat
from workbench.search import IndexFolder, PackedIndex
from workbench.search.sidecar import as_schema, joined, joined_schema, rows_table

FORM = StorageFormat("int8", 8)
METADATA = [{"year": 1999, "url": "u"}, {}, {"year": 2001, "day": date(2020, 1, 2)}]


def vectors(count: int):
    return FORM.encode(np.random.default_rng(count).standard_normal((count, 8), dtype=np.float32))


def test_they_come_back_with_rows_and_hits(tmp_path):
    made = PackedIndex(vectors(3), list("abc"), list("xyz"), METADATA)
    made.save(tmp_path / "v.safetensors")
    for index in (made, PackedIndex.open(tmp_path / "v.safetensors")):
        assert [row.metadata for row in index.rows(range(3))] == METADATA
        (hits,) = index.search(index.vectors.decode()[2], 1)
        assert hits[0].metadata == METADATA[2]
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "text", "year", "url", "day"]
    assert table.schema.field("year").type == pa.int64()


def test_a_folder_keeps_them(tmp_path):
    folder = IndexFolder.create(tmp_path / "index", FORM)
    folder.add(vectors(3), list("abc"), list("xyz"), METADATA)
    folder.add(vectors(2), list("de"), list("xy"))
    folder.add(vectors(1), ["f"], ["z"], [{"year": "unknown", "good": True}])
    folder.delete(["b"])
    expected = [METADATA[0], METADATA[2], {}, {}, {"year": "unknown", "good": True}]
    for index in (folder, IndexFolder.open(folder.path)):
        assert [row.metadata for row in index.rows()] == expected
    folder.compact()
    years = [{**found, "year": str(found["year"])} if "year" in found else found for found in expected]
    assert [row.metadata for row in IndexFolder.open(folder.path).rows()] == years


def test_what_is_refused():
    with pytest.raises(ValueError, match="cannot be called 'text'"):
        PackedIndex(vectors(1), ["a"], ["x"], [{"text": "y"}])
    with pytest.raises(ValueError, match="metadata of 1 rows does not belong to 2 texts"):
        PackedIndex(vectors(2), ["a", "b"], ["x", "y"], [{}])


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([1, "x"], ["1", "x"]),
        ([True, 1], ["true", "1"]),
        ([2**70, 1], [str(2**70), "1"]),
        ([date(2020, 1, 2), "soon"], ["2020-01-02", "soon"]),
    ],
)
def test_a_column_of_several_types(values, stored):
    together = rows_table([*"abc"][: len(values)], ["t"] * len(values), [{"m": value} for value in values])
    assert together["m"].to_pylist() == stored
    apart = [rows_table(["a"], ["t"], [{"m": value}]) for value in values if value is not None]
    assert joined(apart)["m"].to_pylist() == [value for value in stored if value is not None]


def test_tables_of_other_columns_are_joined():
    one, other = rows_table(["a"], ["t"], [{"m": 1}]), rows_table(["b"], ["t"], [{"n": "x"}])
    schema = joined_schema([one.schema, other.schema])
    assert as_schema(other, schema).to_pylist() == [{"id": "b", "text": "t", "m": None, "n": "x"}]
