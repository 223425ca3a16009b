"""Grouping texts by length changes what is computed, not what comes out."""

from collections.abc import Callable

import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.attention import capture_attention_states
from workbench.recipes.batches import ExampleBatch
from workbench.recipes.forward import Encoder, embed_batch, forward_dtype, group_by_length, tokenize_batch

BATCH = ExampleBatch(
    source="s",
    in_batch=True,
    indices=(0, 1),
    queries=("short", "a query of some length, longer than the other"),
    positives=("p" * 60, "tiny"),
    negatives=(("n1", "n" * 33), ("some negative text", "x")),
)
TEXTS = [*BATCH.queries, *BATCH.positives, *BATCH.negatives[0], *BATCH.negatives[1]]


def test_groups_hold_every_text_once_at_a_power_of_two(tiny_embedder: BitEmbedder) -> None:
    tokens = tokenize_batch(tiny_embedder, BATCH, 128)
    rows, groups = group_by_length(tokens)
    assert sorted(rows.tolist()) == list(range(8))
    start = 0
    for group in groups:
        mask = group["attention_mask"]
        lengths = mask.sum(dim=1)
        assert mask.shape[1] == -(-int(lengths.max()) // 8) * 8
        bucket = 8
        while bucket < int(lengths.max()):
            bucket *= 2
        assert bucket == 8 or int(lengths.min()) > bucket // 2
        for row, ids, length in zip(
            rows[start : start + len(mask)], group["input_ids"], lengths, strict=True
        ):
            assert ids[:length].tolist() == tokens["input_ids"][row, :length].tolist()
        start += len(mask)
    assert len(groups) == 3


def test_embeddings_keep_their_order(tiny_embedder: BitEmbedder) -> None:
    tokens = tokenize_batch(tiny_embedder, BATCH, 128)
    found = embed_batch(Encoder(tiny_embedder, None), tokens, 2, torch.float32)
    expected = torch.cat([tiny_embedder.embed(tiny_embedder.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(found.batch.queries, expected[:2])
    torch.testing.assert_close(found.batch.positives, expected[2:4])
    torch.testing.assert_close(found.batch.negatives, expected[4:].reshape(2, 2, -1))
    assert len(found.states) == 0


def test_states_belong_to_the_groups(tiny_embedder: BitEmbedder) -> None:
    tokens = tokenize_batch(tiny_embedder, BATCH, 128)
    rows, groups = group_by_length(tokens)
    found = embed_batch(Encoder(tiny_embedder, 1), tokens, 2, torch.float32)
    assert len(found.states) == len(found.masks) == len(groups)
    with capture_attention_states(tiny_embedder.model, 1) as capture:
        tiny_embedder.embed(tiny_embedder.tokenize([TEXTS[rows[0]]]))
    length = int(groups[0]["attention_mask"][0].sum())
    for ours, expected in zip(found.states[0], capture.states, strict=True):
        torch.testing.assert_close(ours[0, :, :length], expected[0, :, :length])


def test_prompts_go_before_queries_and_documents(tiny_embedder: BitEmbedder) -> None:
    tiny_embedder.settings.prompts = {"query": "ask: ", "document": "d: "}
    tokens = tokenize_batch(tiny_embedder, BATCH, 20)
    texts = [f"ask: {text}" for text in TEXTS[:2]] + [f"d: {text}" for text in TEXTS[2:]]
    assert torch.equal(tokens["input_ids"], tiny_embedder.tokenize(texts, max_length=20)["input_ids"])
    assert int(tokens["attention_mask"].sum(dim=1).max()) == 20


def test_no_text_is_longer_than_the_model_takes(tiny_embedder: BitEmbedder) -> None:
    tiny_embedder.max_length = 16
    assert int(tokenize_batch(tiny_embedder, BATCH, 999)["attention_mask"].sum(dim=1).max()) == 16


@pytest.mark.parametrize(
    ("able", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({}, torch.float32)],
)
def test_auto_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: torch.dtype
) -> None:
    capabilities: Callable[[], dict[str, bool]] = lambda: able  # noqa: E731
    monkeypatch.setattr(torch.cpu, "get_capabilities", capabilities)
    assert forward_dtype("auto", torch.device("cpu")) is dtype
    assert forward_dtype("float32", torch.device("cpu")) is torch.float32
    assert forward_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
