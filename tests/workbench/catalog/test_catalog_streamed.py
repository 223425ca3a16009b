"""Data that are read while they are used: shards in blocks, and mixtures of them."""

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.catalog import shards
from workbench.catalog.example import Example, ExampleSource
from workbench.catalog.examples import load_examples, unlabelled_texts
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.shards import RowGroup, blocks_of
from workbench.catalog.streamed import StreamedSource

Rows = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards, "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def rows_of(count: int, name: str = "") -> Rows:
    return [
        {"query": f"{name}q{i}", "positive": f"{name}p{i}", "negatives": [f"{name}n{i}"]}
        for i in range(count)
    ]


def write(path: Path, rows: Rows, group: int = 4) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def everything(source: StreamedSource, negatives: bool = True) -> list[tuple[int, Example]]:
    return [row for block in range(len(source.blocks)) for row in source.read(block, negatives)]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_blocks_hold_every_row_once_and_in_order(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LINES_PER_BLOCK", 4)
    rows = rows_of(23)
    for number, part in enumerate((rows[:10], rows[10:11], rows[11:])):
        write(tmp_path / "data" / f"{number}{suffix}", part)
    for spec in (str(tmp_path / "data"), str(tmp_path / "data" / f"*{suffix}")):
        source = StreamedSource.open("data", spec, "triplets")
        assert [block.rows for block in source.blocks] == [4, 4, 2, 1, 4, 4, 4]
        assert source.size == 23
        wanted = [(i, Example(f"q{i}", f"p{i}", (f"n{i}",))) for i in range(23)]
        assert everything(source) == wanted
        assert source.read(4, negatives=False)[0] == (11, Example("q11", "p11"))


def test_lines_are_counted_once_and_again_when_the_file_has_changed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", rows_of(5))
    blocks = blocks_of(str(tmp_path / "a.jsonl"))
    monkeypatch.setattr(shards, "_find_line_spans", lambda path: pytest.fail("counted again"))
    assert blocks_of(str(tmp_path / "a.jsonl")) == blocks
    monkeypatch.undo()
    monkeypatch.setattr(shards, "cache_root", lambda: cache)
    write(tmp_path / "a.jsonl", rows_of(6))
    assert [block.rows for block in blocks_of(str(tmp_path / "a.jsonl"))] == [6]


def test_a_hub_data_set_is_read_by_row_group_where_it_lies(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "set" / f"train-{number:05d}-of-00002.parquet", rows_of(6, f"{number}"))
    write(tmp_path / "set" / "test-00000-of-00001.parquet", rows_of(3, "t"))
    source = StreamedSource.open("hub", f"hub:{tmp_path / 'set'}", "pairs")
    assert [example.query for _, example in everything(source)] == [
        f"{n}q{i}" for n in "01" for i in range(6)
    ]
    assert StreamedSource.open("hub", f"hub:{tmp_path / 'set'}:test", "pairs").size == 3
    with pytest.raises(ValueError, match="no files of a split 'dev': "):
        blocks_of(f"hub:{tmp_path / 'set'}:dev")

    remote = "memory://shards/a.parquet"
    with fsspec.open(remote, "wb") as file:
        file.write((tmp_path / "set" / "test-00000-of-00001.parquet").read_bytes())
    assert RowGroup(remote, 0, 3).read(["query"]) == [{"query": f"tq{i}"} for i in range(3)]


def test_a_hub_data_set_of_other_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", rows_of(3))
    with pytest.raises(ValueError, match="not stored as Parquet files"):
        blocks_of(f"hub:{tmp_path / 'set'}")


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    rows = [
        {"title": f"t{i}", "answer": f"a{i}", "negative_1": f"x{i}", "negative_2": f"y{i}"} for i in range(3)
    ]
    write(tmp_path / "a.parquet", rows)
    path = str(tmp_path / "a.parquet")
    source = StreamedSource.open("a", path, "triplets", query="title")
    assert source.read(0, negatives=True)[1] == (1, Example("t1", "a1", ("x1", "y1")))
    one = StreamedSource.open("a", path, "triplets", query="title", negatives="negative_2")
    assert one.read(0, negatives=True)[1] == (1, Example("t1", "a1", ("y1",)))
    with pytest.raises(ValueError, match="none of query, anchor, question is among them"):
        StreamedSource.open("a", path, "pairs")
    with pytest.raises(ValueError, match="no column 'body'; it has title, answer"):
        StreamedSource.open("a", path, "pairs", query="title", positive="body")


def test_what_cannot_be_used_is_passed_over_and_faults_are_named(tmp_path: Path) -> None:
    rows = rows_of(6)
    rows[1]["positive"] = "  "
    rows[2]["query"] = None
    rows[3]["negatives"] = []
    rows[4]["query"] = "one two three four five six seven eight nine ten"
    write(tmp_path / "a.parquet", rows, group=6)
    path = str(tmp_path / "a.parquet")
    [source] = load_examples(str(tmp_path / "*.parquet"), "triplets")
    assert [number for number, _ in source.read(0, negatives=True)] == [0, 4, 5]
    assert [number for number, _ in source.read(0, negatives=False)] == [0, 3, 4, 5]
    evaluation = OverlapFilter(["zero one two three four five six seven eight nine ten"])
    [source] = load_examples(str(tmp_path / "*.parquet"), "triplets", exclude=evaluation)
    assert [number for number, _ in source.read(0, negatives=False)] == [0, 3, 5]
    assert [number for number, _ in source.without({"p5"}).read(0, negatives=False)] == [0, 3]

    write(tmp_path / "b" / "1.jsonl", [{"query": "q", "positive": 3}])
    with pytest.raises(ValueError, match=r"1.jsonl, example 0 of b: `positive` must be a text, got int"):
        StreamedSource.open("b", str(tmp_path / "b"), "pairs").read(0, negatives=False)
    write(tmp_path / "b" / "2.parquet", [{"query": "q", "answer": "a"}])
    with pytest.raises(ValueError, match=r"2.parquet lacks positive, which other files of its data set have"):
        StreamedSource.open("b", str(tmp_path / "b"), "pairs").read(1, negatives=False)
    Path(path).write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"a.parquet cannot be read, is damaged or not a Parquet file"):
        blocks_of(path)
    with pytest.raises(FileNotFoundError, match="there is no"):
        blocks_of(str(tmp_path / "*.gz"))


def test_triplets_need_negatives_and_in_batch_is_said_in_the_mixture(tmp_path: Path) -> None:
    write(tmp_path / "a" / "a.parquet", [{"query": "q", "positive": "p", "in_batch": False}])
    with pytest.raises(ValueError, match="has no negatives"):
        StreamedSource.open("a", str(tmp_path / "a"), "triplets")
    with pytest.raises(ValueError, match='say "in_batch": true or false in a mixture file'):
        load_examples(str(tmp_path / "a"), "pairs")
    assert not StreamedSource.open("a", str(tmp_path / "a"), "pairs", in_batch=False).in_batch


def test_a_fingerprint_tells_other_shards_and_columns_apart_but_not_where_they_lie(tmp_path: Path) -> None:
    for folder, count in (("a", 9), ("b", 9), ("c", 10)):
        write(tmp_path / folder / "0.parquet", rows_of(count))
    a, b, c = (StreamedSource.open("", str(tmp_path / folder), "pairs").fingerprint for folder in "abc")
    other = StreamedSource.open("", str(tmp_path / "a"), "pairs", positive="query").fingerprint
    assert a == b
    assert len({a, c, other}) == 3


def test_samples_are_spread_over_blocks_and_decided_by_the_generator(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows_of(100), group=10)
    source = StreamedSource.open("a", str(tmp_path / "a.parquet"), "pairs")
    sample, again = (source.sample(20, np.random.default_rng(3)) for _ in range(2))
    assert sample == again
    assert len({example.query for example in sample}) == 20
    assert len({int(example.query[1:]) // 10 for example in sample}) >= 6
    assert len(source.sample(1000, np.random.default_rng(0))) == 100
    limited = source.limited(25, seed=1)
    assert limited.size == 30
    assert set(limited.blocks) < set(source.blocks)
    assert len(unlabelled_texts(str(tmp_path / "*.parquet"), 12)) == 12


def test_a_mixture_names_shards_and_sources_of_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "web" / "1.parquet", rows_of(8))
    write(tmp_path / "forum.parquet", [{"title": f"t{i}", "positive": f"p{i}"} for i in range(5)])
    mixture = {
        "web": {"data": str(tmp_path / "web"), "weight": 3},
        "forum": {
            "data": str(tmp_path / "forum.parquet"),
            "weight": 1,
            "query": "title",
            "in_batch": False,
        },
        "mix": {"data": "demo", "weight": 2},
    }
    small = [ExampleSource(name, "", "", [Example("q", "p")] * size) for name, size in (("x", 4), ("y", 1))]
    monkeypatch.setattr("workbench.catalog.examples._load_mix", lambda *_: iter(small))
    (tmp_path / "mixture.json").write_text(json.dumps(mixture))
    sources = load_examples(str(tmp_path / "mixture.json"), "pairs")
    assert [(s.name, s.size, s.in_batch, s.weight) for s in sources] == [
        ("web", 8, True, 3),
        ("forum", 5, False, 1),
        ("x", 4, True, pytest.approx(4 / 3)),
        ("y", 1, True, pytest.approx(2 / 3)),
    ]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ([], "is no mixture"),
        ({"a": "data"}, "'a' must be an object that says where its \"data\" is"),
        ({"a": {"data": "x", "wieght": 1}}, "'a' has a field 'wieght'; there are data, weight"),
        ({"a": {"data": "x", "weight": "1"}}, "'weight' of 'a' is '1'"),
        ({"a": {"data": "x", "weight": True}}, "'weight' of 'a' is True"),
        ({"a": {"data": "x", "weight": 0}}, "the weight of 'a' must be greater than 0"),
        (
            {"a": {"data": "x", "weight": 1}, "b": {"data": "y"}},
            "give every source a weight or none; b has none",
        ),
        ({"a": {"data": "demo", "query": "q"}}, "'a' is of the catalog, which knows its query itself"),
    ],
)
def test_a_faulty_mixture_says_what_is_wrong(tmp_path: Path, mixture: Any, message: str) -> None:
    (tmp_path / "mixture.json").write_text(json.dumps(mixture))
    with pytest.raises(ValueError, match=message):
        load_examples(str(tmp_path / "mixture.json"), "pairs")
