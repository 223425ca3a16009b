"""The catalog's data sets as mteb tasks, so that every number is computed by mteb's own code.

A task is built from data in memory: nothing is fetched from a hub, and mteb's defaults are kept except where
its docstrings say they are meant for data sets of another size (see `LocalClustering`).
"""

from typing import Any, TypeAlias

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from workbench.catalog.tasks import (
    ClassificationData,
    ClusteringData,
    RetrievalData,
    StsData,
    TaskData,
    fingerprint,
)

ENGLISH = ["eng-Latn"]
LocalTask: TypeAlias = AbsTaskRetrieval | AbsTaskSTS | AbsTaskClassification | AbsTaskClustering


def local_task(name: str, data: TaskData) -> LocalTask:
    """The mteb task over `data`; its main score is nDCG@10, Spearman, accuracy or V-measure."""
    if isinstance(data, RetrievalData):
        return LocalRetrieval(name, data)
    if isinstance(data, StsData):
        return LocalSts(name, data)
    if isinstance(data, ClassificationData):
        return LocalClassification(name, data)
    if isinstance(data, ClusteringData):
        return LocalClustering(name, data)
    raise ValueError(
        f"task {name!r} holds {type(data).__name__}, which is none of the catalog's data classes"
    )


def _metadata(name: str, data: TaskData, kind: str, main_score: str, eval_langs: Any) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description=f"{name}, from local data",
        type=kind,
        category="t2c" if kind == "Classification" else "t2t",
        dataset={"path": f"local/{name}", "revision": fingerprint(data)},
        eval_splits=["test"],
        eval_langs=eval_langs,
        main_score=main_score,
    )


class LocalRetrieval(AbsTaskRetrieval):
    """Queries against a corpus; the main score is nDCG@10. A title is put before its text, as mteb does.

    mteb ranks 1,000 documents per query for its secondary scores; the 100 here leave nDCG@10 as it is.
    """

    k_values = (1, 3, 5, 10, 20, 100)

    def __init__(self, name: str, data: RetrievalData) -> None:
        self.metadata = _metadata(name, data, "Retrieval", "ndcg_at_10", ENGLISH)
        super().__init__()
        corpus = Dataset.from_list(
            [{"id": id_, "title": title, "text": text} for id_, (title, text) in data.corpus.items()]
        )
        queries = Dataset.from_list([{"id": id_, "text": text} for id_, text in data.queries.items()])
        split = RetrievalSplitData(
            corpus=corpus, queries=queries, relevant_docs=dict(data.qrels), top_ranked=None
        )
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class LocalSts(AbsTaskSTS):
    """Rated pairs; the main score is the Spearman correlation of the cosine, averaged over subsets."""

    def __init__(self, name: str, data: StsData) -> None:
        rows_by_subset: dict[str, list[dict[str, Any]]] = {}
        for first, second, score, subset in data.rows:
            row = {"sentence1": first, "sentence2": second, "score": float(score)}
            rows_by_subset.setdefault(subset or "default", []).append(row)
        eval_langs = dict.fromkeys(rows_by_subset, ENGLISH)
        self.metadata = _metadata(name, data, "STS", "cosine_spearman", eval_langs)
        super().__init__()
        scores = {float(score) for _, _, score, _ in data.rows}
        if len(scores) < 2:
            raise ValueError(
                f"task {name!r} rates all its pairs the same: there is nothing to correlate with"
            )
        self.min_score, self.max_score = min(scores), max(scores)
        self.dataset = {
            subset: DatasetDict(test=Dataset.from_list(rows)) for subset, rows in rows_by_subset.items()
        }
        self.data_loaded = True


class LocalClassification(AbsTaskClassification):
    """Labelled texts; the main score is the accuracy of ten logistic regressions on 8 texts per label.

    The two overrides only replace a lazily read label column by its values: mteb reads it element by element,
    which takes longer than fitting the classifiers. Samples and scores are mteb's.
    """

    def __init__(self, name: str, data: ClassificationData) -> None:
        self.metadata = _metadata(name, data, "Classification", "accuracy", ENGLISH)
        super().__init__()
        labels = sorted({label for _, label in [*data.train, *data.test]})
        number = {label: index for index, label in enumerate(labels)}

        def split(rows: list[tuple[str, str]]) -> Dataset:
            return Dataset.from_dict(
                {"text": [text for text, _ in rows], "label": [number[label] for _, label in rows]}
            )

        self.dataset = {"default": DatasetDict(train=split(data.train), test=split(data.test))}
        self.data_loaded = True

    def _undersample_data(
        self, dataset: Any, experiment_num: int, idxs: list[int] | None = None
    ) -> tuple[Any, list[int], list[int]]:
        return super()._undersample_data(_LabelsInMemory(dataset), experiment_num, idxs)

    def _calculate_scores(self, y_test: Any, y_pred: Any) -> Any:
        return super()._calculate_scores(y_test[:], y_pred)


class _LabelsInMemory:
    """A data set whose columns are read as lists."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, column: str) -> list[int]:
        return self._dataset[column][:]

    def select(self, indices: list[int]) -> Dataset:
        return self._dataset.select(indices)


class LocalClustering(AbsTaskClustering):
    """Labelled texts; the main score is the V-measure of k-means, mean of ten bootstrap samples.

    mteb embeds 4 % of the texts and draws samples of 16,384 by default, which is made for data sets of a
    million texts. Here all texts are embedded and a sample is as large as the data set.
    """

    max_fraction_of_documents_to_embed = None

    def __init__(self, name: str, data: ClusteringData) -> None:
        self.metadata = _metadata(name, data, "Clustering", "v_measure", ENGLISH)
        super().__init__()
        self.max_documents_per_cluster = min(len(data.texts), AbsTaskClustering.max_documents_per_cluster)
        rows = Dataset.from_dict({"sentences": list(data.texts), "labels": list(data.labels)})
        self.dataset = {"default": DatasetDict(test=rows)}
        self.data_loaded = True
