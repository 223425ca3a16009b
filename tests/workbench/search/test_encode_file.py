"""From a file of texts to an index, and every way such a file can be wrong."""

import json
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitembed_core import PackedEmbeddings, StorageFormat
from workbench.search import encode_file
from workbench.search.text_files import read_texts
from workbench.search.text_source import TextSource

ROWS = [
    {"_id": "a", "text": "ternary weights"},
    {"_id": "b", "title": "Storage", "text": "bytes per vector"},
    {"_id": "c", "title": "", "text": "a search index"},
]


def write_jsonl(path, rows) -> None:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
@pytest.mark.parametrize("chunk", [1, 2, 1024])
def test_the_index_holds_what_encode_document_gives(tiny_embedder, tmp_path, monkeypatch, precision, chunk):
    monkeypatch.setattr(import_module("workbench.search.encode_file"), "TEXTS_PER_CHUNK", chunk)
    tiny_embedder.settings.prompts["document"] = "doc: "
    write_jsonl(tmp_path / "texts.jsonl", ROWS)
    index = encode_file(tiny_embedder, tmp_path / "texts.jsonl", tmp_path / "v.safetensors", precision)
    texts = ["ternary weights", "Storage bytes per vector", "a search index"]
    x = tiny_embedder.encode(texts, prompt="doc: ")
    expected = StorageFormat(precision, tiny_embedder.dimension).encode(x)
    np.testing.assert_array_equal(index.vectors.codes, expected.codes)
    (hits,) = index.search(x[1], 1)
    assert hits[0][:2] == ("b", "Storage bytes per vector")


def test_parquet_and_jsonl_give_the_same_rows(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", ["", json.dumps(ROWS[0]), "", *ROWS[1:]])
    columns = {name: [row.get(name) for row in ROWS] for name in ("_id", "title", "text")}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows = list(read_texts(tmp_path / "t.jsonl"))
    assert rows == list(read_texts(tmp_path / "t.parquet"))
    assert rows[1][:2] == ("b", "Storage bytes per vector")
    assert TextSource(f"{tmp_path}/t.jsonl").length() == TextSource(f"{tmp_path}/t.parquet").length() == 3


def test_ids_are_optional(tmp_path):
    write_jsonl(tmp_path / "t.jsonl", [{"text": "x"}, {"id": 7, "text": "y"}, {"text": "z"}])
    assert [row.id for row in read_texts(tmp_path / "t.jsonl")] == ["0", "7", "2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "cut', "not valid JSON"),
        ('["text"]', "expected an object"),
        ('{"txt": "typo"}', "`text` is missing"),
        ('{"text": 3}', "must be a text"),
        ('{"text": "  "}', "is empty"),
        ('{"_id": "a", "text": "again"}', "'a' was used before"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tiny_embedder, tmp_path, line, reason):
    path = tmp_path / "texts.jsonl"
    write_jsonl(path, [ROWS[0], ROWS[1], line])
    with pytest.raises(ValueError, match=rf"texts\.jsonl:3: .*{reason}"):
        encode_file(tiny_embedder, path, tmp_path / "v.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["texts.jsonl"]


def test_bad_requests(tiny_embedder, tmp_path):
    path = tmp_path / "texts.jsonl"
    write_jsonl(path, ROWS)
    out = tmp_path / "v.safetensors"
    with pytest.raises(ValueError, match=r"int5.*binary"):
        encode_file(tiny_embedder, path, out, "int5")
    with pytest.raises(ValueError, match="safetensors"):
        encode_file(tiny_embedder, path, tmp_path / "v.npy")
    with pytest.raises(FileNotFoundError):
        encode_file(tiny_embedder, tmp_path / "nothing.jsonl", out)
    with pytest.raises(ValueError, match=r"\.jsonl\.gz or \.parquet"):
        encode_file(tiny_embedder, tmp_path / "texts.csv", out)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match="would replace"):
        encode_file(tiny_embedder, tmp_path / "v.parquet", out)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="no rows"):
        encode_file(tiny_embedder, tmp_path / "empty.jsonl", out)
    assert not out.exists()


def test_a_full_disk_leaves_nothing(tiny_embedder, tmp_path, monkeypatch):
    write_jsonl(tmp_path / "texts.jsonl", ROWS)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PackedEmbeddings, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        encode_file(tiny_embedder, tmp_path / "texts.jsonl", tmp_path / "v.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["texts.jsonl"]
