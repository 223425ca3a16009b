"""Training text by name, from files and from the hub; the errors name the file and the line."""

import json
import logging

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from workbench.catalog import examples as catalog
from workbench.catalog.examples import Example, load_examples, unlabelled_texts
from workbench.catalog.overlap import OverlapFilter
from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.sources import PAIRS, TRIPLETS, SourceEntry

TABLE = [
    {"query": "q1", "positive": "p1", "negatives": ["n1", "n2"], "source": "a", "in_batch": True},
    {"query": "q2", "positive": "p2", "negatives": None, "source": "b", "in_batch": False},
    {"query": "q3", "positive": "p3", "negatives": ["n3"], "source": "a"},
]


def write_lines(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Three small sources, one of which cannot be fetched; returns how often each was built."""
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))
    built = []

    def build(name, count):
        built.append(name)
        if name == "gone":
            raise PackageUnavailable("gone is needed, but `apt-get` is not installed")
        return [Example(f"{name} question {n}", f"{name} passage {n}", ("no",)) for n in range(count)]

    table = {
        name: SourceEntry(name, "here", "none", lambda n=name, c=count: build(n, c), in_batch=name != "few")
        for name, count in (("many", 50), ("few", 3), ("gone", 1))
    }
    monkeypatch.setattr(catalog, "TABLES", {"pairs": table, "triplets": table})
    mix = {"many": 10, "gone": None, "few": None}
    monkeypatch.setattr(catalog, "MIXES", {"demo": {"pairs": mix, "triplets": mix}})
    return built


def test_every_source_states_origin_and_licence_and_mixes_name_known_sources():
    for name, entry in [*PAIRS.items(), *TRIPLETS.items()]:
        assert entry.name == name
        assert entry.origin
        assert entry.licence
    for mix in catalog.MIXES.values():
        for kind, table in (("pairs", PAIRS), ("triplets", TRIPLETS)):
            assert mix[kind].keys() <= table.keys()
    left_out = PAIRS.keys() - catalog.MIXES["offline"]["pairs"].keys()
    assert left_out == {"edited-sentences", "edited-examples"}


def test_a_mix_caps_its_sources_and_says_what_it_goes_without(sources, caplog):
    with caplog.at_level(logging.WARNING, "bitembed"):
        loaded = load_examples("demo", "pairs")
    assert [(source.name, len(source.examples)) for source in loaded] == [("many", 10), ("few", 3)]
    assert [source.in_batch for source in loaded] == [True, False]
    assert "goes without gone: gone is needed, but `apt-get` is not installed" in caplog.text


def test_a_named_source_that_cannot_be_fetched_is_an_error(sources):
    with pytest.raises(PackageUnavailable, match="gone is needed"):
        load_examples("many,gone", "pairs")


def test_more_names_than_a_file_name_is_long(sources):
    assert len(load_examples(",".join(["many"] * 100), "pairs")) == 100


def test_a_file_name_may_hold_commas(tmp_path):
    path = write_lines(tmp_path / "a,b.jsonl", {"query": "q", "positive": "p"})
    assert [len(source.examples) for source in load_examples(path, "pairs")] == [1]


def test_sources_are_built_once_and_sampled_by_seed(sources):
    first = load_examples("many, few", "pairs", limit_per_source=5, seed=1)
    again = load_examples("many,few", "pairs", limit_per_source=5, seed=1)
    other = load_examples("many,few", "pairs", limit_per_source=5, seed=2)
    assert first == again
    assert first[0].examples != other[0].examples
    assert [len(source.examples) for source in first] == [5, 3]
    assert sources == ["many", "few"]


def test_cached_examples_are_distinct_and_not_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path))
    rows = [Example("A  b", "c\nd"), Example("a b!", "c d"), Example("...", "p"), Example("q", " ")]
    table = {"s": SourceEntry("s", "o", "l", lambda: rows)}
    monkeypatch.setattr(catalog, "TABLES", {"pairs": table, "triplets": table})
    (source,) = load_examples("s", "pairs")
    assert source.examples == [Example("A b", "c\nd")]


def test_overlap_with_evaluation_is_dropped_and_an_emptied_source_left_out(sources, caplog):
    exclude = OverlapFilter(
        ["few passage 0", "few passage 1", "few passage 2", "many passage 7"], run_length=3
    )
    loaded = load_examples("many,few", "pairs", exclude=exclude)
    assert [(source.name, len(source.examples)) for source in loaded] == [("many", 49)]
    assert exclude.dropped == {"few": 3, "many": 1}
    assert "few is left out" in caplog.text


def test_an_unknown_name_lists_what_there_is(sources):
    with pytest.raises(ValueError, match=r"no pairs called 'mny': .*demo.*many, few, gone.*hub:"):
        load_examples("mny", "pairs")
    with pytest.raises(ValueError, match="'pairs' or 'triplets'"):
        load_examples("many", "pair")


def test_jsonl_and_parquet_files_read_alike(tmp_path):
    jsonl = write_lines(tmp_path / "own.jsonl", TABLE[0], "", TABLE[1], TABLE[2])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TABLE), tmp_path / "own.parquet")
    for path in (jsonl, str(tmp_path / "own.parquet")):
        a, b = load_examples(path, "pairs")
        assert (a.name, a.in_batch, a.origin) == ("a", True, path)
        assert a.examples == [Example("q1", "p1", ("n1", "n2")), Example("q3", "p3", ("n3",))]
        assert (b.name, b.in_batch, b.examples) == ("b", False, [Example("q2", "p2")])


def test_rows_without_a_source_are_named_after_the_file(tmp_path):
    path = write_lines(tmp_path / "mine, really.jsonl", {"query": "q", "positive": "p"})
    assert [source.name for source in load_examples(path, "pairs")] == ["mine, really"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "q", ', r"own\.jsonl:2: not valid JSON"),
        ('["q", "p"]', r"own\.jsonl:2: expected an object like \{\.\.\.\}, got list"),
        ({"query": "q"}, r"own\.jsonl:2: field `positive` is missing \(it has query\)"),
        ({"query": 3, "positive": "p"}, r"own\.jsonl:2: field `query` must be a text, got int"),
        ({"query": "q", "positive": "  "}, r"own\.jsonl:2: field `positive` is empty"),
        (
            {"query": "q", "positive": "p", "negatives": [1]},
            r"own\.jsonl:2: `negatives` must be texts, got 1",
        ),
        ({"query": "q", "positive": "p", "in_batch": 0}, r"own\.jsonl:2: field `in_batch` must be true or"),
        ('{"query": "\xff"'.encode("latin-1").decode("utf-8", "surrogateescape"), r"own\.jsonl:2: not valid"),
    ],
)
def test_a_faulty_line_is_named(tmp_path, line, message):
    text = f"{json.dumps(TABLE[0])}\n{line if isinstance(line, str) else json.dumps(line)}\n"
    (tmp_path / "own.jsonl").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        load_examples(str(tmp_path / "own.jsonl"), "pairs")


def test_files_without_rows_negatives_or_parquet_inside(tmp_path):
    with pytest.raises(ValueError, match="holds no rows"):
        load_examples(write_lines(tmp_path / "empty.jsonl", ""), "pairs")
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl does not exist"):
        load_examples(str(tmp_path / "absent.jsonl"), "pairs")
    with pytest.raises(ValueError, match=r"own\.jsonl:2: `negatives` is missing"):
        load_examples(write_lines(tmp_path / "own.jsonl", *TABLE), "triplets")
    (tmp_path / "own.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"own\.parquet is not a Parquet file"):
        load_examples(str(tmp_path / "own.parquet"), "pairs")


def test_hub_columns_are_mapped(monkeypatch):
    asked = []

    def load_dataset(name, configuration, split):
        asked.append((name, configuration, split))
        rows = [{"anchor": "q", "positive": "p", "negative_1": "n1", "negative_2": ["n2", "n3"], "id": 7}]
        return datasets.Dataset.from_list([{**row, "negative_1": row["negative_1"]} for row in rows])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (source,) = load_examples("hub:owner/nli@triplet:dev", "triplets")
    assert source.examples == [Example("q", "p", ("n1", "n2", "n3"))]
    load_examples("hub:owner/nli", "pairs")
    assert asked == [("owner/nli", "triplet", "dev"), ("owner/nli", None, "train")]


def test_hub_data_sets_that_do_not_fit_or_cannot_be_had(monkeypatch):
    table = datasets.Dataset.from_list([{"text": "a", "label": 1}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration, split: table)
    with pytest.raises(ValueError, match="columns text, label: none of query, anchor, question"):
        load_examples("hub:owner/name", "pairs")

    def offline(name, configuration, split):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(PackageUnavailable, match=r"the hub data set owner/name: is this machine online"):
        load_examples("hub:owner/name", "pairs")


def test_unlabelled_texts_take_turns_among_sources(sources, tmp_path):
    texts = unlabelled_texts("many,few", limit=8, seed=3)
    assert [text.split()[0] for text in texts] == ["many", "few"] * 3 + ["many"] * 2
    assert len(set(texts)) == 8
    assert texts == unlabelled_texts("many,few", limit=8, seed=3)
    assert texts != unlabelled_texts("many,few", limit=8, seed=4)
    path = write_lines(tmp_path / "plain.jsonl", {"text": "one"}, {"text": "two"}, {"text": "one"})
    assert sorted(unlabelled_texts(path, limit=10)) == ["one", "two"]
