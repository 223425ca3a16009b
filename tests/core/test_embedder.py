"""Encoding: pooling, prompts, padding invariance, precisions, and clear errors for bad input."""

import gc
import logging

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.backbones import load_tokenizer
from bitembed_core.pooling import pool
from bitembed_core.storage import PackedEmbeddings, StorageFormat

ARCHITECTURES = ["bert", "qwen3", "gemma3"]


def test_pooling_modes_restated() -> None:
    states = torch.randn(3, 5, 4)
    masks = torch.tensor(
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]]
    )  # the last one padded on both sides
    for row, mask in enumerate(masks):
        real = [states[row, t] for t in range(5) if mask[t]]
        assert torch.equal(pool(states, masks, "cls")[row], real[0])
        assert torch.equal(pool(states, masks, "last")[row], real[-1])
        torch.testing.assert_close(pool(states, masks, "mean")[row], sum(real) / len(real))


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_embedding_does_not_change_with_its_batch(make_embedder, sentences, architecture, ternary) -> None:
    embedder = make_embedder(architecture)
    if ternary:
        embedder.convert()
    together = embedder.encode(sentences, batch_size=3)
    alone = np.stack([embedder.encode(text) for text in sentences])
    backwards = embedder.encode(sentences[::-1], batch_size=32)[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_allclose(backwards, together, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_more_padding_changes_nothing(make_embedder, sentences, architecture) -> None:
    embedder = make_embedder(architecture)
    batch = embedder.tokenize(sentences[:1])
    wider = {name: torch.nn.functional.pad(tensor, (0, 24)) for name, tensor in batch.items()}
    with torch.no_grad():
        torch.testing.assert_close(embedder.embed(wider), embedder.embed(batch), atol=1e-5, rtol=0)


def test_last_token_models_end_every_text_with_eos(make_embedder, sentences, tmp_path) -> None:
    embedder = make_embedder("qwen3")
    eos = embedder.tokenizer.eos_token_id
    batch = embedder.tokenize([*sentences, "y" * 500])
    last = batch["attention_mask"].sum(dim=1) - 1
    assert (batch["input_ids"][torch.arange(len(last)), last] == eos).all()
    assert last.max() + 1 == embedder.max_length  # cut texts keep it too
    embedder.save_pretrained(tmp_path / "m")
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert again.tokenize(sentences)["input_ids"].equal(embedder.tokenize(sentences)["input_ids"])


def test_prompts(tiny_embedder, sentences) -> None:
    tiny_embedder.settings.prompts = {"query": "query: ", "document": ""}
    by_hand = tiny_embedder.encode([f"query: {text}" for text in sentences])
    assert (tiny_embedder.encode_query(sentences) == by_hand).all()
    assert (tiny_embedder.encode(sentences, prompt_name="query") == by_hand).all()
    assert (tiny_embedder.encode(sentences, prompt="query: ") == by_hand).all()
    assert (tiny_embedder.encode_document(sentences) == tiny_embedder.encode(sentences)).all()
    with pytest.raises(ValueError, match=r"no prompt named 'passage'; the model has \['document', 'query'\]"):
        tiny_embedder.encode(sentences, prompt_name="passage")


@pytest.mark.parametrize("precision", ["int8", "int4", "int2", "binary"])
def test_low_bit_precisions_are_the_packed_codes_of_the_float_vectors(
    tiny_embedder, sentences, precision
) -> None:
    packed = tiny_embedder.encode(sentences, precision=precision)
    assert isinstance(packed, PackedEmbeddings)
    expected = StorageFormat(precision, 32).encode(tiny_embedder.encode(sentences))
    assert (packed.codes == expected.codes).all()
    assert (packed.scales == expected.scales).all()


def test_float16_and_single_texts(tiny_embedder, sentences) -> None:
    vectors = tiny_embedder.encode(sentences, precision="float16")
    assert vectors.dtype == np.float16
    assert tiny_embedder.encode("one text").shape == (32,)
    assert len(tiny_embedder.encode("one text", precision="binary")) == 1


def test_bad_input_is_named(tiny_embedder) -> None:
    with pytest.raises(ValueError, match="no texts"):
        tiny_embedder.encode([])
    with pytest.raises(ValueError, match="text 1 is empty"):
        tiny_embedder.encode(["fine", " \n"])
    with pytest.raises(TypeError, match="text 1 is a NoneType"):
        tiny_embedder.encode(["fine", None])
    with pytest.raises(ValueError, match="unknown precision 'int3'; choose one of float32"):
        tiny_embedder.encode(["fine"], precision="int3")
    with pytest.raises(ValueError, match="max_length must be positive"):
        tiny_embedder.max_length = 100_000


def test_long_texts_are_cut_with_a_warning_or_refused(tiny_embedder, caplog) -> None:
    long = "word " * 100
    with caplog.at_level(logging.WARNING):
        vector = tiny_embedder.encode(long)
    assert "1 of 1 texts are longer than 128 tokens and are cut" in caplog.text
    assert (vector == tiny_embedder.encode(long[:126])).all()  # 126 bytes, <cls> and <sep>
    with pytest.raises(ValueError, match="longer than 128 tokens"):
        tiny_embedder.encode(long, truncate=False)


def test_what_is_no_model(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        BitEmbedder.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        BitEmbedder.from_pretrained(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FileNotFoundError, match=r"not a \.gguf file"):
        BitEmbedder.from_pretrained(tmp_path / "notes.txt")


def test_garbage_collection_goes_on_after_a_tokenizer(tiny_embedder, tmp_path) -> None:
    tiny_embedder.save_pretrained(tmp_path / "m")
    load_tokenizer(tmp_path / "m")
    assert gc.isenabled()
    with pytest.raises((OSError, ValueError)):
        load_tokenizer(tmp_path / "nothing")
    assert gc.isenabled()
    gc.disable()
    try:
        load_tokenizer(tmp_path / "m")
        assert not gc.isenabled()
    finally:
        gc.enable()
