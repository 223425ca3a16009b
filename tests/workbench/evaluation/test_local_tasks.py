"""Tasks built from data in memory give the numbers that a slow hand calculation gives."""

import math
import random

import mteb
import numpy as np
import pytest
from mteb.abstasks import AbsTaskClassification
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression

from workbench.catalog.tasks import RetrievalData, StsData
from workbench.evaluation import EmbeddingCache, MtebEncoder
from workbench.evaluation.local_tasks import LocalClassification, local_task
from workbench.evaluation.runner import score_task


def encoder_over(embedder, precision="float32") -> MtebEncoder:
    return MtebEncoder(EmbeddingCache(embedder), precision)


def unit(x) -> np.ndarray:
    return np.asarray(x, dtype=np.float64) / np.linalg.norm(x)


def test_ndcg_by_hand(table_embedder):
    """Two queries: the relevant texts come at ranks 1 and 3, and at rank 2."""
    data = RetrievalData(
        corpus={"d0": ("", "near"), "d1": ("head", "second"), "d2": ("", "third"), "d3": ("", "far")},
        queries={"q0": "first query", "q1": "other query"},
        qrels={"q0": {"d0": 1, "d2": 1}, "q1": {"d1": 1}},
    )
    angle = {
        "near": 0,
        "head second": 20,
        "third": 40,
        "far": 90,
        "first query": 0,
        "other query": 5,  # near first, head second next
    }
    table = {text: (math.cos(math.radians(a)), math.sin(math.radians(a))) for text, a in angle.items()}
    score, subsets = score_task(local_task("ret_hand", data), encoder_over(table_embedder(table)))
    first = (1 / math.log2(2) + 1 / math.log2(4)) / (1 / math.log2(2) + 1 / math.log2(3))
    second = 1 / math.log2(3)
    assert score == pytest.approx((first + second) / 2, abs=1e-5)
    assert subsets == {"default": score}


def test_ndcg_counts_ten_ranks_and_graded_relevance(
    table_embedder, random_table, retrieval_entry, entry_texts
):
    table = random_table(entry_texts([retrieval_entry]))
    data = retrieval_entry.load()
    documents = {id_: unit(table[f"{title} {text}".strip()]) for id_, (title, text) in data.corpus.items()}
    expected = []
    for query, text in data.queries.items():
        scores = {id_: float(unit(table[text]) @ x) for id_, x in documents.items()}
        ranked = sorted(scores, key=lambda id_: -scores[id_])[:10]
        gain = sum(data.qrels[query].get(id_, 0) / math.log2(rank + 2) for rank, id_ in enumerate(ranked))
        ideal = sorted(data.qrels[query].values(), reverse=True)
        expected.append(gain / sum(value / math.log2(rank + 2) for rank, value in enumerate(ideal)))
    score, _ = score_task(local_task("ret", data), encoder_over(table_embedder(table)))
    assert score == pytest.approx(np.mean(expected), abs=1e-5)


def test_sts_is_the_mean_spearman_of_the_subsets(table_embedder, random_table, sts_entry, entry_texts):
    table = random_table(entry_texts([sts_entry]))
    score, subsets = score_task(local_task("sts", sts_entry.load()), encoder_over(table_embedder(table)))
    expected = {}
    for subset in ("even", "odd"):
        rows = [row for row in sts_entry.load().rows if row[3] == subset]
        cosines = [float(unit(table[first]) @ unit(table[second])) for first, second, _, _ in rows]
        expected[subset] = spearmanr(cosines, [row[2] for row in rows]).statistic
    assert subsets == pytest.approx(expected, abs=1e-6)
    assert score == pytest.approx(sum(expected.values()) / 2, abs=1e-6)


def test_sts_without_subsets(table_embedder):
    table = {"a": (1.0, 0.0), "b": (0.9, 0.1), "c": (0.0, 1.0)}
    data = StsData([("a", "b", 5, ""), ("a", "c", 0, ""), ("b", "c", 1, "")])
    score, subsets = score_task(local_task("sts", data), encoder_over(table_embedder(table)))
    assert score == pytest.approx(1.0)
    assert list(subsets) == ["default"]


def test_classification_is_ten_regressions_on_eight_texts_a_label(
    table_embedder, random_table, classification_entry, entry_texts
):
    table = random_table(entry_texts([classification_entry]))
    data = classification_entry.load()
    train = np.stack([unit(table[text]) for text, _ in data.train]).astype(np.float32)
    test = np.stack([unit(table[text]) for text, _ in data.test]).astype(np.float32)
    number = {label: i for i, label in enumerate(sorted({label for _, label in data.train}))}
    y_train, y_test = ([number[label] for _, label in rows] for rows in (data.train, data.test))
    order, accuracies = list(range(len(train))), []
    for _ in range(10):
        np.random.RandomState(42).shuffle(order)
        kept = [i for label in number.values() for i in [i for i in order if y_train[i] == label][:8]]
        kept.sort(key=order.index)
        model = LogisticRegression(max_iter=100, random_state=42)
        model.fit(train[kept], [y_train[i] for i in kept])
        accuracies.append(float(np.mean(model.predict(test) == y_test)))
    score, _ = score_task(local_task("cls", data), encoder_over(table_embedder(table)))
    assert score == pytest.approx(np.mean(accuracies), abs=1e-9)


def test_faster_label_columns_change_no_score(
    table_embedder, random_table, classification_entry, entry_texts, monkeypatch
):
    encoder = encoder_over(table_embedder(random_table(entry_texts([classification_entry]))))

    def all_scores():
        task = local_task("cls", classification_entry.load())
        outcome = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False)
        return outcome.task_results[0].scores

    ours = all_scores()
    for name in ("_undersample_data", "_calculate_scores"):
        monkeypatch.setattr(LocalClassification, name, getattr(AbsTaskClassification, name))
    assert ours == all_scores()


def test_clustering_scores_every_column_on_the_same_samples(
    table_embedder, random_table, clustering_entry, entry_texts
):
    embedder = table_embedder(random_table(entry_texts([clustering_entry])))
    encoder = encoder_over(embedder)
    task = local_task("clu", clustering_entry.load())
    first, _ = score_task(task, encoder)
    again, _ = score_task(task, encoder)
    fresh, _ = score_task(local_task("clu", clustering_entry.load()), encoder)
    assert first == again == fresh
    assert sorted(embedder.calls[0][1]) == sorted(clustering_entry.load().texts)  # all of them, not 4 %


def test_clustering_finds_clear_groups(table_embedder, clustering_entry):
    data = clustering_entry.load()
    generator = random.Random(0)
    table = {
        text: [float(i == int(label[-1])) + 0.01 * generator.random() for i in range(4)]
        for text, label in zip(data.texts, data.labels, strict=True)
    }
    score, _ = score_task(local_task("clu", data), encoder_over(table_embedder(table), "int4"))
    assert score > 0.85


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match=r"'x' holds dict"):
        local_task("x", {})  # type: ignore[arg-type]
