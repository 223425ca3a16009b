"""Whole models with Triton kernels: encoding and conversion as the reference has them."""

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.ops.encoder.fused import FusedEncoder, batch_of, filled

ARCHITECTURES = ["bert", "qwen3", "gemma3"]


@pytest.fixture
def texts(sentences) -> list[str]:
    return [sentence[:20] for sentence in sentences[:3]]


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_encoder(architecture, pooling, make_embedder, texts, device) -> None:
    embedder = make_embedder(architecture)
    embedder.convert()
    embedder.freeze()
    embedder.settings.pooling = pooling
    ids = [embedder.tokenizer(text)["input_ids"] for text in texts]
    embedder._use_kernel("reference")
    with torch.inference_mode():
        expected = torch.cat([embedder.embed(embedder._pad([tokens])) for tokens in ids])
    embedder.model.to(device)
    embedder._use_kernel("triton")
    actual = FusedEncoder(embedder.model, pooling).encode(ids).cpu()
    # One activation on the other side of a rounding step changes a vector a little.
    assert (actual * expected).sum(dim=1).min() > 0.999
    assert (actual * expected).sum(dim=1).median() > 0.9999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_texts_do_not_depend_on_their_company(architecture, make_embedder, texts, device) -> None:
    """Nor on what a batch is filled up with, nor, on a card, on whether it runs for the first time or as a graph."""
    embedder = make_embedder(architecture)
    embedder.convert()
    embedder.freeze()
    embedder.model.to(device)
    embedder._use_kernel("triton")
    encoder = FusedEncoder(embedder.model, "mean")
    ids = [
        embedder.tokenizer(text)["input_ids"][-length:] for text, length in zip(texts, (3, 9, 6), strict=True)
    ]
    alone = torch.cat([encoder.encode([tokens]) for tokens in ids])
    times = 3 if device.type == "cuda" else 1
    for order in [[2, 0, 1]] * times + [[1, 1, 2, 0]] * times:
        assert torch.equal(encoder.encode([ids[i] for i in order]), alone[order])


def test_positions_grow(make_embedder, texts, device, monkeypatch) -> None:
    """Longer texts than all before get rotations of their own, and earlier sizes still the right ones."""
    monkeypatch.setattr("bitembed_core.ops.encoder.fused.FIRST_POSITIONS", 1)
    embedder = make_embedder("gemma3")
    embedder.convert()
    embedder.freeze()
    embedder.model.to(device)
    embedder._use_kernel("triton")
    ids = [embedder.tokenizer(text)["input_ids"] for text in texts]
    short, long = ids[0][:2], ids[1] + ids[2]
    grown, fresh = FusedEncoder(embedder.model, "last"), FusedEncoder(embedder.model, "last")
    before = [grown.encode([short]) for _ in range(3)]
    assert torch.equal(grown.encode([long]), fresh.encode([long]))
    assert torch.equal(grown.encode([short]), before[0])
    assert torch.equal(before[2], before[0])


def test_batches_come_in_few_sizes() -> None:
    sizes = {filled(tokens) for tokens in range(1, 16_385)}
    assert len(sizes) <= 8 * 10
    for tokens in range(1, 16_385):
        assert tokens <= filled(tokens) <= max(16, tokens + max(15, tokens / 8))
    for lengths in ([1], [3, 130, 64], [200] * 90):
        ids = [list(range(1, n + 1)) for n in lengths]
        batch = batch_of(ids, 16)
        assert len(batch.inputs) == 2 * batch.tokens + 3 * batch.blocks
        total = sum(lengths)
        assert batch.inputs[:total].tolist() == [t for tokens in ids for t in tokens]
        assert batch.inputs[batch.tokens :][:total].tolist() == [t for n in lengths for t in range(n)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embedder_uses_it(architecture, make_embedder, texts, device, tmp_path) -> None:
    embedder = make_embedder(architecture)
    embedder.convert()
    embedder.save_pretrained(tmp_path / "packed", "packed")
    packed = BitEmbedder.from_pretrained(tmp_path / "packed", device=device, kernel="triton")
    assert packed.kernel == "triton"
    vectors = packed.encode(texts)
    assert isinstance(packed._encoder, FusedEncoder)
    reference = BitEmbedder.from_pretrained(tmp_path / "packed", device=device, kernel="reference").encode(
        texts
    )
    assert (vectors * reference).sum(axis=1).min() > 0.999
    np.testing.assert_array_equal(vectors, packed.encode(texts))
    packed.model.get_submodule("embed_tokens" if architecture != "bert" else "embeddings")  # unchanged
    assert packed._encoder.is_current(packed.pooling)


def test_conversion_with_the_kernel(make_embedder, texts, device, everywhere) -> None:
    """The norms' gains are calibrated through the ternary layers, by whichever kernel is selected."""
    gains = {}
    for kernel in ("reference", "triton"):
        torch.manual_seed(0)
        embedder = make_embedder("qwen3")
        embedder.model.to(device)
        embedder.convert(calibration_texts=texts)
        embedder._use_kernel(kernel)
        gains[kernel] = torch.cat(
            [p.detach().flatten() for n, p in embedder.model.named_parameters() if "norm" in n]
        )
    torch.testing.assert_close(gains["reference"], gains["triton"])


def test_errors(make_embedder, device) -> None:
    embedder = make_embedder("bert")
    embedder.convert()
    embedder.model.to(device)
    embedder._use_kernel("triton")
    encoder = FusedEncoder(embedder.model, "mean")
    with pytest.raises(ValueError, match="no tokens"):
        encoder.encode([[5, 6], []])
    with pytest.raises(ValueError, match="positions"):
        encoder.encode([[5] * 5000])
