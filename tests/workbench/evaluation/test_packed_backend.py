"""mteb's retrieval scores through packed search are those of sorting decoded vectors, with and without rescoring."""

import mteb
import numpy as np
import pytest
from mteb.models import ModelMeta

from bitembed_core import StorageFormat
from workbench.catalog.tasks import RetrievalData, TaskEntry
from workbench.evaluation import EmbeddingCache, MtebEncoder, evaluate
from workbench.evaluation.local_tasks import local_task
from workbench.evaluation.packed_backend import HITS, PackedBackend

DOCUMENTS, QUERIES, DIM = 150, 30, 97
TIES = 1e-4  # documents with equal scores may change places, far down
FORMATS = ["float16", "int8", "int4", "int2", "binary", "int2-fitted", "ternary-fitted"]


@pytest.fixture(scope="module")
def vectors() -> dict[str, np.ndarray]:
    """Two relevant documents lie near each query, so that scores are neither 0 nor 1."""
    random = np.random.default_rng(0)
    queries = random.standard_normal((QUERIES, DIM))
    documents = random.standard_normal((DOCUMENTS, DIM))
    documents[: 2 * QUERIES] += 0.25 * np.repeat(queries, 2, axis=0)
    table = {f"query {i}": x for i, x in enumerate(queries)} | {
        f"document {i}": x for i, x in enumerate(documents)
    }
    return {text: (x / np.linalg.norm(x)).astype(np.float32) for text, x in table.items()}


@pytest.fixture(scope="module")
def entry() -> TaskEntry:
    corpus = {f"d{i}": ("", f"document {i}") for i in range(DOCUMENTS)}
    queries = {f"q{i}": f"query {i}" for i in range(QUERIES)}
    qrels = {f"q{i}": {f"d{2 * i}": 1, f"d{2 * i + 1}": 2} for i in range(QUERIES)}
    return TaskEntry(
        "ret_near", "retrieval", "made up", "none", lambda: RetrievalData(corpus, queries, qrels)
    )


class DecodedSearch:
    """mteb's `SearchProtocol` by the definition: decode, multiply, sort; equal scores by the number of the document."""

    def __init__(self, vectors, precision, float_queries, rescore=None, oversampling=4) -> None:
        self.vectors, self.precision, self.float_queries = vectors, precision, float_queries
        self.rescore, self.deep = rescore, HITS * oversampling
        self.mteb_model_meta = ModelMeta.create_empty()

    def index(self, corpus, **_) -> None:
        self.ids, self.texts = list(corpus["id"]), list(corpus["text"])

    def scores(self, queries, precision) -> np.ndarray:
        form = StorageFormat(precision, DIM)
        d = form.encode(np.stack([self.vectors[text] for text in self.texts])).decode().astype(np.float64)
        if not precision.endswith("-fitted"):  # the values of fitted formats are corrected already
            d /= np.linalg.norm(d, axis=1, keepdims=True)
        q = np.stack([self.vectors[text] for text in queries])
        q = (q if self.float_queries else form.encode(q).decode()).astype(np.float64)
        return np.round(q / np.linalg.norm(q, axis=1, keepdims=True) @ d.T, 6)

    def search(self, queries, *, top_k, **_) -> dict[str, dict[str, float]]:
        narrow = self.scores(queries["text"], self.precision)
        if self.rescore is not None:
            wide = self.scores(queries["text"], self.rescore)
            for narrow_N, wide_N in zip(narrow, wide, strict=True):
                best = np.argsort(-narrow_N, kind="stable")[: self.deep]
                narrow_N[best] = 10 + wide_N[best]
        return {
            id_: {self.ids[row]: float(line[row]) for row in np.argsort(-line, kind="stable")[:top_k]}
            for id_, line in zip(queries["id"], narrow, strict=True)
        }


def scores(model, entry) -> dict[str, float]:
    (result,) = mteb.evaluate(
        model, local_task(entry.name, entry.load()), cache=None, show_progress_bar=False
    ).task_results
    return {
        name: value for name, value in result.scores["test"][0].items() if name.startswith(("ndcg", "recall"))
    }


@pytest.mark.parametrize("float_queries", [False, True])
@pytest.mark.parametrize("precision", FORMATS)
def test_scores_are_those_of_decoded_vectors(precision, float_queries, vectors, entry, table_embedder):
    cache = EmbeddingCache(table_embedder(vectors))
    ours = scores(MtebEncoder(cache, precision, float_queries=float_queries), entry)
    assert ours == pytest.approx(scores(DecodedSearch(vectors, precision, float_queries), entry), abs=TIES)
    assert 0.2 < ours["ndcg_at_10"] < 0.97


@pytest.mark.parametrize("float_queries", [False, True])
@pytest.mark.parametrize(("precision", "rescore"), [("binary", "int8"), ("int2-fitted", "float16")])
def test_rescored_scores(precision, rescore, float_queries, vectors, entry, table_embedder):
    cache = EmbeddingCache(table_embedder(vectors))
    options = {"float_queries": float_queries, "rescore": rescore, "oversampling": 2}
    ours = scores(MtebEncoder(cache, precision, **options), entry)
    expected = scores(DecodedSearch(vectors, precision, **options), entry)
    assert ours == pytest.approx(expected, abs=TIES)
    narrow = scores(MtebEncoder(cache, precision, float_queries=float_queries), entry)
    assert narrow["ndcg_at_10"] < ours["ndcg_at_10"]


def test_without_an_index_mteb_scores_the_same(vectors, entry, table_embedder):
    """mteb's own search over what the encoder decodes: the path of models that are no `SearchProtocol`."""
    encoder = MtebEncoder(EmbeddingCache(table_embedder(vectors)), "int8")

    class WithoutIndex:
        encode, mteb_model_meta = encoder.encode, encoder.mteb_model_meta
        similarity = staticmethod(encoder.similarity)
        similarity_pairwise = staticmethod(encoder.similarity_pairwise)

    assert scores(encoder, entry) == pytest.approx(scores(WithoutIndex(), entry), abs=1e-5)


@pytest.mark.parametrize("rescore", [None, "int8"])
def test_reranking_numbers_documents_within_the_candidates(rescore, vectors):
    x = np.stack([vectors[f"document {i}"] for i in range(DOCUMENTS)])
    q = np.stack([vectors[f"query {i}"] for i in range(2)])
    wide = StorageFormat(rescore, DIM) if rescore else None
    backend = PackedBackend(StorageFormat("int4", DIM), True, wide)
    backend.add_documents(x[:70], [f"d{i}" for i in range(70)])
    backend.add_documents(x[70:], [f"d{i}" for i in range(70, DOCUMENTS)])
    candidates = {"q0": ["d120", "d1", "d0", "d60"], "q1": [f"d{i}" for i in range(140, 40, -1)]}
    found, numbers = backend.search(q, 7, top_ranked=candidates, query_idx_to_id={0: "q0", 1: "q1"})
    form = wide or backend.format
    for query, name, best, ranked in zip(q, ("q0", "q1"), found, numbers, strict=True):
        full = form.encode(np.stack([x[int(id_[1:])] for id_ in candidates[name]])).scores(query[None])[0]
        assert ranked == np.argsort(-full, kind="stable")[:7].tolist()
        np.testing.assert_allclose(best, full[ranked], atol=1e-5)
    backend.clear()
    backend.add_documents(x[:3], ["a", "b", "c"])
    assert sorted(backend.search(q, 7)[1][0]) == [0, 1, 2]


@pytest.mark.parametrize("float_queries", [False, True])
def test_evaluation_tells_the_index_and_encodes_once(float_queries, vectors, entry, table_embedder):
    embedder = table_embedder(vectors)
    results = evaluate(
        embedder,
        entry,
        ["int8", "int4", "binary"],
        float_queries=float_queries,
        rescore="int8",
        oversampling=2,
    )
    encoded = [text for _, texts in embedder.calls for text in texts]
    assert sorted(encoded) == sorted(vectors)
    index = results["retrieval_index"]
    assert (index["rescore"], index["oversampling"], index["rescored"]) == ("int8", 2, ["int4", "binary"])
    plain = evaluate(table_embedder(vectors), entry, ["int8", "binary"], float_queries=float_queries)
    ours, theirs = results["tasks"]["ret_near"], plain["tasks"]["ret_near"]
    assert "rescore" not in plain["retrieval_index"]
    assert ours["int8"] == theirs["int8"]
    assert ours["binary"] > theirs["binary"]


def test_nothing_to_rescore(vectors, entry, table_embedder):
    with pytest.raises(ValueError, match=r"none of float16, int8 is narrower than int4"):
        evaluate(table_embedder(vectors), entry, ["float16", "int8"], rescore="int4")
    with pytest.raises(ValueError, match="'int3'"):
        evaluate(table_embedder(vectors), entry, ["int8"], rescore="int3")
