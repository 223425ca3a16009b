"""The encoder mteb sees: one encoding per text, and vectors that have been bytes."""

from types import SimpleNamespace

import mteb
import numpy as np
import pytest
import torch
from mteb.types import PromptType
from threadpoolctl import threadpool_info, threadpool_limits

from bitembed_core.storage import PRECISIONS
from bitembed_core.storage.precisions import SCHEMES
from workbench.evaluation import EmbeddingCache, MtebEncoder

STS = SimpleNamespace(name="sts_small", type="STS")
RETRIEVAL = SimpleNamespace(name="ret_small", type="Retrieval")


def loader(*texts: str) -> list[dict[str, list[str]]]:
    return [{"text": list(texts[:2])}, {"text": list(texts[2:])}]


def stored_by_hand(x: np.ndarray, precision: str) -> np.ndarray:
    """Eq 10 and 11 value by value, then unit length; the float formats just rounded."""
    if precision in {"float32", "float16"}:
        return x.astype(precision)
    y = np.empty(x.shape)
    m = 2 ** {"int8": 8, "int4": 4, "int2": 2, "binary": 1}[precision] - 1
    for i, row in enumerate(x):
        a = max(abs(float(value)) for value in row)
        for j, value in enumerate(row):
            if precision == "binary":
                y[i, j] = a if value >= 0 else -a
            else:
                z = min(max(round((float(value) / a + 1) / 2 * m), 0), m)
                y[i, j] = (2 * z / m - 1) * a
    return y / np.linalg.norm(y, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "precision", [name for name in PRECISIONS if name not in SCHEMES or not SCHEMES[name].fitted]
)
def test_vectors_are_the_hand_quantized_ones(table_embedder, random_table, precision):
    texts = [f"text {i}" for i in range(9)]
    table = random_table(texts, dim=13)
    encoder = MtebEncoder(EmbeddingCache(table_embedder(table)), precision)
    x = np.stack([table[text] / np.linalg.norm(table[text]) for text in texts])
    got = encoder.encode(loader(*texts), task_metadata=STS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, stored_by_hand(x, precision), atol=2e-6)


def test_unknown_precision_lists_the_names(table_embedder):
    with pytest.raises(ValueError, match=r"int3.*float32.*binary"):
        MtebEncoder(EmbeddingCache(table_embedder({"a": [1, 0]})), "int3")


def test_a_text_is_encoded_once_per_prompt_whatever_the_precision(table_embedder):
    embedder = table_embedder({"a": [1, 0], "b": [0, 1], "c": [1, 1]}, prompts={"query": "find: "})
    cache = EmbeddingCache(embedder)
    for precision in ("float16", "int8", "binary"):
        encoder = MtebEncoder(cache, precision)
        encoder.encode(loader("a", "b", "a"), task_metadata=STS)
        encoder.encode(loader("b", "c", "b"), task_metadata=RETRIEVAL, prompt_type=PromptType.query)
        encoder.encode(loader("b", "c", "b"), task_metadata=RETRIEVAL, prompt_type=PromptType.document)
    assert embedder.calls == [("", ["a", "b"]), ("find: ", ["b", "c"]), ("", ["c"])]
    cache.clear()
    assert len(cache) == 0


def test_prompts_follow_mteb_rules(table_embedder):
    prompts = {"query": "q: ", "STS": "alike: ", "ret_small-document": "d: "}
    encoder = MtebEncoder(EmbeddingCache(table_embedder({"a": [1.0]}, prompts)))
    assert encoder.prompt(STS) == "alike: "
    assert encoder.prompt(RETRIEVAL, PromptType.query) == "q: "
    assert encoder.prompt(RETRIEVAL, PromptType.document) == "d: "
    assert encoder.prompt(SimpleNamespace(name="other", type="Clustering")) == ""


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_embeddings_are_refused_with_the_text(table_embedder, bad):
    embedder = table_embedder({"good": [1.0, 0.0], "the bad one": [1.0, 0.0]})
    embedder.encode = lambda texts, **_: np.array([[1, bad if "bad" in text else 0] for text in texts])
    cache = EmbeddingCache(embedder)
    with pytest.raises(ValueError, match=r"1 of 2 embeddings .*'the bad one'"):
        cache.encode(["good", "the bad one"])
    assert len(cache) == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_blank_text_is_similar_to_nothing(table_embedder, precision):
    encoder = MtebEncoder(EmbeddingCache(table_embedder({"a": [0.3, -1.0]})), precision)
    x = encoder.encode(loader("", "a", " \n"), task_metadata=STS)
    assert not x[0].any()
    assert not x[2].any()
    assert torch.equal(encoder.similarity(x[:1], x), torch.zeros(1, 3))


def test_the_model_keeps_its_threads_while_scikit_learn_is_limited(table_embedder):
    seen = []
    embedder = table_embedder({"a": [1.0, 0.0]})
    plain = embedder.encode

    def encode(texts, **options):
        seen.append({pool["num_threads"] for pool in threadpool_info()})
        return plain(texts, **options)

    embedder.encode = encode
    cache = EmbeddingCache(embedder)
    cache.threads = 2
    with threadpool_limits(1):
        cache.encode(["a"])
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert seen == [{2}]


@pytest.mark.filterwarnings("ignore")
def test_mteb_mock_run(tiny_embedder):
    for precision in ("float32", "binary"):
        encoder = MtebEncoder(EmbeddingCache(tiny_embedder), precision)
        outcome = mteb.mock_run(encoder)
        failures = {name: status for name, status in outcome.items() if status is not None}
        assert outcome.all_passed, failures
        assert len(failures) > 10
