"""A folder of the user's own evaluation tasks, and what is said about faulty ones."""

import json

import pytest

from workbench.catalog.task_folder import read_task_folder
from workbench.catalog.tasks import ClassificationData, ClusteringData, RetrievalData, StsData


def write_rows(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def write_retrieval(folder, qrels="q1\td1\t1\n"):
    write_rows(
        folder / "corpus.jsonl", {"_id": "d1", "text": "one", "title": "T"}, {"_id": "d2", "text": "two"}
    )
    write_rows(folder / "queries.jsonl", {"_id": "q1", "text": "first"}, {"_id": "q2", "text": "second"})
    (folder / "qrels.tsv").write_text(qrels)


def test_all_four_kinds_are_read(tmp_path):
    write_retrieval(tmp_path / "ret_mine", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td2\t2\n")
    write_rows(tmp_path / "sts_mine.jsonl", {"s1": "a", "s2": "b", "score": 3})
    write_rows(
        tmp_path / "cls_mine.jsonl",
        {"text": "x", "label": 1, "split": "train"},
        {"text": "y", "label": "z", "split": "test"},
    )
    write_rows(tmp_path / "clu_mine.jsonl", {"text": "x", "label": "l"})
    (tmp_path / "README.md").write_text("not a task")
    entries = {entry.name: entry for entry in read_task_folder(tmp_path)}
    assert [(e.name, e.type) for e in entries.values()] == [
        ("cls_mine", "classification"),
        ("clu_mine", "clustering"),
        ("ret_mine", "retrieval"),
        ("sts_mine", "sts"),
    ]
    assert entries["ret_mine"].load() == RetrievalData(
        {"d1": ("T", "one"), "d2": ("", "two")},
        {"q1": "first", "q2": "second"},
        {"q1": {"d1": 1, "d2": 0}, "q2": {"d2": 2}},
    )
    assert entries["sts_mine"].load() == StsData([("a", "b", 3.0, "all")])
    assert entries["cls_mine"].load() == ClassificationData([("x", "1")], [("y", "z")])
    assert entries["clu_mine"].load() == ClusteringData(["x"], ["l"])


def test_qrels_need_no_header_and_unjudged_queries_are_not_asked(tmp_path, caplog):
    write_retrieval(tmp_path / "ret_mine")
    (entry,) = read_task_folder(tmp_path)
    assert entry.load().queries == {"q1": "first"}
    assert "1 queries have no line in qrels.tsv" in caplog.text


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(tmp_path, name):
    write_retrieval(tmp_path / "ret_mine")
    (tmp_path / "ret_mine" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"ret_mine lacks {name}: a retrieval task is a folder of"):
        read_task_folder(tmp_path)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1\tabsent\t1\n", r"qrels\.tsv:1: document 'absent' is not in corpus\.jsonl"),
        ("q1\td1\t1\nabsent\td1\t1\n", r"qrels\.tsv:2: query 'absent' is not in queries\.jsonl"),
        ("q1 d1 1\n", r"qrels\.tsv:1: expected query id, document id and relevance with tabs"),
        ("q1\td1\t1\nq1\td1\thigh\n", r"qrels\.tsv:2: relevance must be a whole number, got 'high'"),
        ("query\tdocument\tscore\n", r"qrels\.tsv holds no judgements"),
    ],
)
def test_faulty_qrels_are_named(tmp_path, qrels, message):
    write_retrieval(tmp_path / "ret_mine", qrels)
    with pytest.raises(ValueError, match=message):
        read_task_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sts_x.jsonl", '{"s1": ', r"sts_x\.jsonl:1: not valid JSON"),
        ("sts_x.jsonl", {"s1": "a", "score": 1}, r"sts_x\.jsonl:1: field `s2` is missing"),
        (
            "sts_x.jsonl",
            {"s1": "a", "s2": "b", "score": "1"},
            r"sts_x\.jsonl:1: field `score` must be a number",
        ),
        ("sts_x.jsonl", "", r"sts_x\.jsonl holds no rows"),
        (
            "cls_x.jsonl",
            {"text": "a", "label": "b", "split": "dev"},
            r"cls_x\.jsonl:1: `split` must be 'train'",
        ),
        ("cls_x.jsonl", {"text": "a", "label": "b", "split": "test"}, r"has no rows with split 'train'"),
        ("cls_x.jsonl", {"text": "a", "label": "b", "split": "train"}, r"has no rows with split 'test'"),
        (
            "cls_x.jsonl",
            {"text": "a", "label": 0.5, "split": "test"},
            r"field `label` must be a text, got float",
        ),
        ("clu_x.jsonl", {"text": "a"}, r"clu_x\.jsonl:1: field `label` is missing"),
        ("clu_x.jsonl", {"label": "a"}, r"clu_x\.jsonl:1: field `text` is missing"),
    ],
)
def test_faulty_rows_are_named(tmp_path, name, row, message):
    write_rows(tmp_path / name, row)
    with pytest.raises(ValueError, match=message):
        read_task_folder(tmp_path)


def test_repeated_ids_are_named(tmp_path):
    write_retrieval(tmp_path / "ret_x")
    write_rows(tmp_path / "ret_x" / "corpus.jsonl", {"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"})
    with pytest.raises(ValueError, match=r"corpus\.jsonl:2: `_id` 'd1' occurs twice"):
        read_task_folder(tmp_path)


def test_no_folder_and_no_tasks(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent is not a folder of evaluation tasks"):
        read_task_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"holds no evaluation tasks: expected sts_\*\.jsonl"):
        read_task_folder(tmp_path)


def test_empty_texts_and_numeric_ids_of_published_corpora_are_read(tmp_path):
    folder = tmp_path / "ret_real"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": ""}\n{"_id": "d2", "text": "two"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which"}\n')
    (folder / "qrels.tsv").write_text("q\td2\t1.0\n")
    data = read_task_folder(tmp_path)[0].load()
    assert data.corpus == {"1": ("", ""), "d2": ("", "two")}
    assert data.qrels == {"q": {"d2": 1}}
