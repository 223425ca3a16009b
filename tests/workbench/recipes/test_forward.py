"""Grouping texts by length changes what is computed, not what comes out."""

from collections.abc import Callable

import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.attention import capture_attention_states
from workbench.recipes import forward
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


@pytest.mark.parametrize(("fewest", "passes"), [(0, 3), (40, 2), (10_000, 1)])
def test_small_groups_join_the_next_longer_one(
    tiny_embedder: BitEmbedder, fewest: int, passes: int, monkeypatch
) -> None:
    monkeypatch.setitem(forward.FEWEST_AT_ONCE, "cpu", fewest)
    tokens = tokenize_batch(tiny_embedder, BATCH, 128)
    rows, groups = group_by_length(tokens)
    assert sorted(rows.tolist()) == list(range(8))
    assert len(groups) == passes
    assert all(group["input_ids"].numel() >= fewest for group in groups[:-1])
    found = embed_batch(Encoder(tiny_embedder, None), tokens, 2, torch.float32)
    expected = torch.cat([tiny_embedder.embed(tiny_embedder.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(found.batch.queries, expected[:2])
    torch.testing.assert_close(found.batch.negatives, expected[4:].reshape(2, 2, -1))


@pytest.mark.parametrize("most", [1, 64, 200])
def test_groups_keep_to_a_number_of_tokens(tiny_embedder: BitEmbedder, most: int) -> None:
    tokens = tokenize_batch(tiny_embedder, BATCH, 128)
    rows, groups = group_by_length(tokens, most)
    assert sorted(rows.tolist()) == list(range(8))
    assert all(len(g["input_ids"]) == 1 or g["input_ids"].numel() <= most for g in groups)
    if most == 200:
        assert len(groups) < 8


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gemma3"])
def test_grouped_texts_give_the_gradients_of_one_padded_batch(
    make_embedder: Callable[[str], BitEmbedder], architecture: str
) -> None:
    """Of the embeddings and of attention states; also with chunks of some tokens."""
    embedder = make_embedder(architecture)
    tokens = tokenize_batch(embedder, BATCH, 128)
    torch.manual_seed(0)
    wanted = torch.randn(len(TEXTS), embedder.dimension)
    found = []
    for most in (None, 100, "padded"):
        if most == "padded":
            rows, groups = torch.arange(len(TEXTS)), [dict(tokens)]
            with capture_attention_states(embedder.model, 0) as capture:
                embeddings = embedder.embed(tokens)
            states = capture.by_layer
        else:
            rows, groups = group_by_length(tokens, most)
            assert sum(group["input_ids"].numel() for group in groups) < 0.7 * tokens["input_ids"].numel()
            embeddings, states = Encoder(embedder, 0)(groups)
        loss = (embeddings[rows.argsort()] * wanted).sum()
        for group, layer in zip(groups, states, strict=True):
            mask = group["attention_mask"][:, None, :, None]
            loss = loss + sum((x * mask).square().sum() for x in layer)
        embedder.model.zero_grad()
        loss.backward()
        gradients = [p.grad.clone() for p in embedder.model.parameters() if p.grad is not None]
        found.append([embeddings[rows.argsort()].detach(), loss.detach(), *gradients])
    largest = max(float(gradient.abs().max()) for gradient in found[2][2:])
    for other in found[:2]:
        torch.testing.assert_close(other[:2], found[2][:2], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other[2:], found[2][2:], rtol=1e-4, atol=1e-6 * largest)


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
