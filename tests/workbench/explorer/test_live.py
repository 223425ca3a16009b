"""A corpus of one's own: which texts, what a query returns, and the report of it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bitembed_core import StorageFormat
from workbench.catalog.models import load_embedder
from workbench.catalog.task_data import RetrievalData
from workbench.catalog.tasks import TASKS, TaskEntry
from workbench.explorer.corpus import ExplorerConfig, read_corpus
from workbench.explorer.formats import Setting
from workbench.explorer.live import open_live
from workbench.explorer.report import exploration, write_exploration
from workbench.explorer.retention import read_scores
from workbench.search.planner import Rates

from .test_retention import EVALUATION, write

RATES = Rates(bytes_read=1e10, code_products=1e12, float_products=1e11, trellis_values=1e9, threads=2)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [
        {"text": f"text number {number} about {word}"}
        for number in range(8)
        for word in ("cats", "dogs", "π")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(texts, tiny_model_folder, tmp_path):
    return ExplorerConfig(
        model=str(tiny_model_folder), corpus=str(texts), documents=18, queries=4, out=str(tmp_path / "out")
    )


def test_queries_of_a_file_are_not_among_its_texts(config):
    texts, queries = read_corpus(config)
    assert (len(texts), len(queries)) == (18, 4)
    assert not set(texts) & set(queries)
    few, asked = read_corpus(replace(config, documents=1, queries=100))
    assert len(few) == len(asked) == 12


def test_a_retrieval_task_gives_titles_texts_and_its_queries(config, monkeypatch):
    data = RetrievalData(
        {"d1": ("Cats", "purr"), "d2": ("", "Dogs bark"), "d3": ("", " ")},
        {"q1": "who purrs"},
        {"q1": {"d1": 1}},
    )
    entry = TaskEntry("ret_boolq", "retrieval", "here", "none", lambda: data)
    monkeypatch.setitem(TASKS, "ret_boolq", entry)
    texts, queries = read_corpus(replace(config, corpus="ret_boolq"))
    assert texts == ["Cats purr", "Dogs bark"]
    assert queries == ["who purrs"]


def test_what_is_no_corpus_is_refused(config, tmp_path):
    for wrong in ("sts_words", "something"):
        with pytest.raises(ValueError, match="ret_boolq"):
            read_corpus(replace(config, corpus=wrong))
    with pytest.raises(FileNotFoundError):
        read_corpus(replace(config, corpus=str(tmp_path / "absent.jsonl")))
    for field, value in (("documents", 0), ("vectors", 10**11), ("memory_price", -1)):
        with pytest.raises(ValueError, match=field):
            replace(config, **{field: value})


def test_a_query_is_answered_by_each_format(config):
    live = open_live(config)
    embedder = load_embedder(config.model)
    query = embedder.encode_query(["text about cats"])[0]
    documents = embedder.encode_document(list(live.corpus.texts))
    columns = live.neighbours("text about cats", ["binary"], Setting("float32"))
    assert list(columns) == ["float32", "binary"]
    exact = np.argsort(-(documents @ query), kind="stable")[:10]
    assert columns["float32"][0].texts == [live.corpus.texts[row] for row in exact]
    scores = StorageFormat("binary", 32).encode(documents).scores(query[None])[0]
    np.testing.assert_allclose(columns["binary"][0].scores, np.sort(scores)[::-1][:10], atol=1e-5)
    with pytest.raises(ValueError, match="empty"):
        live.neighbours(" ", ["binary"], Setting("float32"))


def test_report_and_numbers_agree(config, tmp_path):
    live = open_live(config)
    files = {"a/results.json": read_scores(write(tmp_path, "r.json", EVALUATION))}
    out = write_exploration(config, files, live, RATES)
    assert sorted(path.name for path in out.iterdir()) == ["explorer.json", "report.html"]
    numbers = json.loads((out / "explorer.json").read_text(encoding="utf-8"))
    assert numbers["config"]["documents"] == 18
    assert {row["setting"]["precision"] for row in numbers["recall"]} == set(live.precisions)
    assert numbers["recall"] == json.loads(json.dumps(exploration(config, files, live, RATES)["recall"]))
    page = (out / "report.html").read_text(encoding="utf-8")
    for said in ("What is kept", live.corpus.queries[0], "Money/month", "100,000,000"):
        assert said in page
