"""Exact search against a brute-force sort, and an index that is whole or refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.storage import PRECISIONS
from workbench.search import PackedIndex, exact


def random_index(n: int, precision: str = "int8", dim: int = 20, seed: int = 0) -> PackedIndex:
    x = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    vectors = StorageFormat(precision, dim).encode(x)
    return PackedIndex(vectors, [f"id{i}" for i in range(n)], [f"text {i}" for i in range(n)])


def queries(count: int, dim: int = 20) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)


def brute_force(found: PackedIndex, q: np.ndarray, top: int) -> list[list[tuple[int, float]]]:
    kept = found.vectors.format.kept  # what a graded format drops counts on neither side
    decoded, q = found.vectors.decode().astype(np.float64)[:, :kept], q[:, :kept]
    lengths = np.linalg.norm(decoded, axis=1)
    if (scheme := found.vectors.format.scheme) is not None and scheme.fitted:
        lengths[:] = 1  # their values are corrected already
    lines = []
    for query in q.astype(np.float64):
        scores = list(map(float, decoded @ query / np.linalg.norm(query) / lengths))
        rows = sorted(range(len(scores)), key=lambda row: -scores[row])
        lines.append([(row, scores[row]) for row in rows[:top]])
    return lines


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scores_at_once", [2**22, 33, 1])
def test_search_is_the_brute_force_top_k(precision, scores_at_once, monkeypatch):
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", scores_at_once)
    found = random_index(101, precision)
    q = queries(3)
    for hits, expected in zip(found.search(q, 7), brute_force(found, q, 7), strict=True):
        assert [hit.id for hit in hits] == [f"id{row}" for row, _ in expected]
        assert [hit.text for hit in hits] == [f"text {row}" for row, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize("scores_at_once", [2**22, 5])
def test_equal_scores_keep_the_order_of_the_index(scores_at_once, monkeypatch):
    monkeypatch.setattr(exact, "SCORES_AT_ONCE", scores_at_once)
    x = np.tile(np.eye(4, dtype=np.float32), (6, 1))
    found = PackedIndex(StorageFormat("float16", 4).encode(x), list(map(str, range(24))), ["t"] * 24)
    (hits,) = found.search(x[1], 9)
    ones = [row for row in range(24) if row % 4 == 1]
    others = [row for row in range(24) if row % 4 != 1]
    assert [int(hit.id) for hit in hits] == [*ones, *others][:9]


def test_more_hits_than_texts_and_one_query():
    found = random_index(3)
    (hits,) = found.search(queries(1)[0], 10)
    assert sorted(hit.id for hit in hits) == ["id0", "id1", "id2"]
    assert hits[0].score >= hits[1].score >= hits[2].score


@pytest.mark.parametrize(
    ("q", "top", "reason"),
    [
        (np.ones((2, 19), np.float32), 3, r"\(n, 20\)"),
        (np.full((1, 20), np.nan, np.float32), 3, "NaN"),
        (np.ones((1, 20), np.float32), 0, "at least 1"),
    ],
)
def test_bad_queries(q, top, reason):
    with pytest.raises(ValueError, match=reason):
        random_index(5).search(q, top)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_save_and_open(precision, tmp_path):
    saved = random_index(17, precision)
    saved.save(tmp_path / "vectors.safetensors")
    opened = PackedIndex.open(tmp_path / "vectors.safetensors")
    q = queries(2)
    assert opened.search(q, 5) == saved.search(q, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors.parquet", "vectors.safetensors"]


def test_a_pair_that_does_not_belong_together_is_refused(tmp_path):
    path = tmp_path / "vectors.safetensors"
    random_index(8).save(path)
    random_index(8, seed=1).vectors.save(path)
    with pytest.raises(ValueError, match="does not belong to"):
        PackedIndex.open(path)
    random_index(9).vectors.save(path)
    with pytest.raises(ValueError, match=r"8 texts.*9 vectors"):
        PackedIndex.open(path)


def test_missing_and_damaged_files(tmp_path):
    path = tmp_path / "vectors.safetensors"
    with pytest.raises(FileNotFoundError):
        PackedIndex.open(path)
    random_index(8).save(path)
    sidecar = tmp_path / "vectors.parquet"
    whole = sidecar.read_bytes()
    sidecar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="Parquet"):
        PackedIndex.open(path)
    sidecar.unlink()
    with pytest.raises(FileNotFoundError, match=r"vectors\.parquet"):
        PackedIndex.open(path)


def test_an_interrupted_save_leaves_the_old_index(tmp_path, monkeypatch):
    path = tmp_path / "vectors.safetensors"
    random_index(8).save(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackedEmbeddings, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        random_index(9).save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_parts_must_have_one_length():
    vectors = random_index(4).vectors
    with pytest.raises(ValueError, match="4 vectors, 3 ids and 4 texts"):
        PackedIndex(vectors, ["a", "b", "c"], ["t"] * 4)
    with pytest.raises(ValueError, match="safetensors"):
        PackedIndex(vectors, list("abcd"), list("abcd")).save("vectors.parquet")


def test_the_sidecar_is_plain_parquet(tmp_path):
    random_index(3).save(tmp_path / "v.safetensors")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "text"]
    assert table["text"].to_pylist() == ["text 0", "text 1", "text 2"]
