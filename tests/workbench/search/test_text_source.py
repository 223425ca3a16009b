"""Reading texts from files, folders, patterns and data sets, and what is said of those that cannot be read."""

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.catalog.packages import PackageUnavailable
from workbench.search import TextSource
from workbench.search.text_files import TextReader, TextRow, read_texts

ROWS = [
    {"id": "a", "text": "one", "year": 1999, "note": None, "tags": ["x", "y"], "share": float("nan")},
    {"id": "b", "text": "two", "title": "Title", "language": "sv"},
    {"id": "c", "text": "three", "year": "unknown", "good": True},
]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def jsonl(tmp_path) -> Path:
    (tmp_path / "t.jsonl").write_text(lines(ROWS))
    return tmp_path / "t.jsonl"


def test_scalars_are_kept_and_what_is_missing_is_not_there(jsonl):
    assert list(read_texts(jsonl)) == [
        TextRow("a", "one", {"year": 1999}),
        TextRow("b", "Title two", {"language": "sv"}),
        TextRow("c", "three", {"year": "unknown", "good": True}),
    ]


def test_columns_by_name(jsonl):
    rows = list(read_texts(TextSource(str(jsonl), metadata=("tags", "year"))))
    assert [row.metadata for row in rows] == [
        {"tags": '["x", "y"]', "year": 1999},
        {},
        {"year": "unknown"},
    ]
    assert not any(row.metadata for row in read_texts(TextSource(str(jsonl), metadata=())))
    assert [row.text for row in read_texts(TextSource(str(jsonl), "id"))] == ["a", "Title b", "c"]


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.jsonl").write_text(lines(ROWS[1:2]))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines(ROWS[:1]))
    pq.write_table(pa.table({"_id": ["p", None], "text": ["x", "y"]}), tmp_path / "c.parquet")
    (tmp_path / "notes.txt").write_text("not read")
    (tmp_path / "empty.jsonl").touch()
    for spec in (tmp_path, tmp_path / "*.*", tmp_path / "[abce]*"):
        source = TextSource(str(spec))
        assert [row.id for row in read_texts(source)] == [
            "a",
            "b",
            "p",
            "3",
        ]  # a row number where none is given
        assert source.length() == 4


def test_a_reader_skips_without_decoding(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(lines([{"text": f"t{i}"} for i in range(3000)]).replace('{"text": "t1500"}', "broken"))
    reader = TextReader(TextSource(str(path)))
    assert [row.id for row in reader.take(2)] == ["0", "1"]
    reader.skip(2000)
    assert reader.position == 2002
    assert [row.text for row in reader.take(2)] == ["t2002", "t2003"]
    reader.skip(5000)
    assert (reader.position, reader.at_end, reader.take(1)) == (3000, True, [])
    with pytest.raises(ValueError, match=r"t\.jsonl:1501: not valid JSON"):
        list(read_texts(path))


def test_a_data_set_is_streamed(tmp_path, monkeypatch):
    pq.write_table(
        pa.Table.from_pylist([{"text": f"t{i}", "stars": i} for i in range(2500)]), tmp_path / "t.parquet"
    )
    asked = []
    load = datasets.load_dataset

    def load_dataset(name, configuration, **options):
        asked.append((name, configuration, options))
        return load(str(tmp_path), **options)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = list(read_texts(TextSource("hub:owner/name@english:train")))
    assert asked == [("owner/name", "english", {"split": "train", "streaming": True})]
    assert rows == [TextRow(str(i), f"t{i}", {"stars": i}) for i in range(2500)]


def test_a_stream_that_breaks_off(tmp_path, monkeypatch):
    def rows():
        yield from ({"text": f"t{i}"} for i in range(1500))
        raise ConnectionError("reset by peer")

    stream = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    with pytest.raises(PackageUnavailable, match=r"owner/name broke off after 1024 rows.*reset by peer"):
        list(read_texts(TextSource("hub:owner/name")))


@pytest.mark.parametrize("spec", ["{}/nowhere.jsonl", "{}/*.parquet", "{}/folder"])
def test_nothing_there(spec, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no"):
        list(read_texts(spec.format(tmp_path)))


def test_damaged_files(tmp_path):
    with gzip.open(tmp_path / "t.jsonl.gz", "wt") as file:
        file.write(lines(ROWS * 100))
    pq.write_table(pa.table({"text": ["x"] * 100}), tmp_path / "t.parquet")
    for name in ("t.jsonl.gz", "t.parquet"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(ValueError, match=rf"{name} is damaged or not"):
            list(read_texts(path))


def test_columns_that_are_not_there(jsonl, tmp_path):
    pq.write_table(pa.table({"body": ["x"], "stars": [1]}), tmp_path / "t.parquet")
    for source, reason in [
        (TextSource(f"{tmp_path}/t.parquet"), r"t\.parquet: field `text` is missing \(it has body, stars\)"),
        (TextSource(f"{tmp_path}/t.parquet", "body", ("url",)), "field `url` is missing"),
        (TextSource(f"hub:{tmp_path}/nix", "body"), "cannot load"),
        (TextSource(str(jsonl), metadata=("url",)), "field `url` is missing in the first 3 rows"),
    ]:
        with pytest.raises((ValueError, PackageUnavailable), match=reason):
            list(read_texts(source))
