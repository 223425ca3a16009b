"""Embedding tables in few bits: the definition restated, damage seen, Gemma's multiplier kept."""

import numpy as np
import pytest
import torch
from torch import nn

from bitembed_core import BitEmbedder
from bitembed_core.embedding_table import (
    QuantizedEmbedding,
    any_zero_nibble,
    check_codes,
    decode_rows,
    quantize_table,
    quantized_tables,
    round_token_table,
)

GROUPS = {"int8": 32, "int4": 128}


def restated(table: torch.Tensor, scale: torch.Tensor, precision: str, dimension: int) -> torch.Tensor:
    rows = []
    for row, scales in zip(table.tolist(), scale.tolist(), strict=True):
        halves = [code for byte in row for code in (byte % 16 - 8, byte // 16 - 8)]
        codes = halves if precision == "int4" else row
        rows.append([code * scales[i // GROUPS[precision]] for i, code in enumerate(codes[:dimension])])
    return torch.tensor(rows)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("dimension", [1, 31, 32, 33, 129, 256])
def test_decoding_restated(precision, dimension) -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, dimension) * torch.logspace(-3, 3, 300)[:, None]
    weight[7] = 0
    table, scale = quantize_table(weight, precision)
    expected = restated(table, scale, precision, dimension)
    torch.testing.assert_close(decode_rows(table, scale, precision, dimension), expected, rtol=1e-6, atol=0)
    module = QuantizedEmbedding.from_embedding(nn.Embedding.from_pretrained(weight), precision)
    ids = torch.tensor([[0, 7], [299, 5]])
    torch.testing.assert_close(module(ids), expected[ids], rtol=1e-6, atol=0)


def test_int8_loses_at_most_half_a_step_of_its_group() -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 64)
    weight[:, 3] *= 50  # an outlier dimension spoils its own group only
    table, scale = quantize_table(weight, "int8")
    error = (decode_rows(table, scale, "int8", 64) - weight).abs()
    step = torch.stack([group.abs().amax(dim=1) for group in weight.split(32, dim=1)], dim=1) / 127
    assert (error <= step.repeat_interleave(32, dim=1) * 0.502).all()
    assert error[:, 32:].max() < 0.02


def test_int4_clips_where_that_lowers_the_error() -> None:
    torch.manual_seed(0)
    weight = torch.randn(400, 128)
    table, scale = quantize_table(weight, "int4")
    error = (decode_rows(table, scale, "int4", 128) - weight).square().mean()
    absmax = weight.abs().amax(dim=1, keepdim=True) / 7
    unclipped = ((weight / absmax).round() * absmax - weight).square().mean()
    assert error < 0.85 * unclipped


def test_float16_is_a_cast_and_gemma_multiplies() -> None:
    embedding = nn.Embedding(300, 8)
    embedding.scalar_embed_scale = 3.0
    module = QuantizedEmbedding.from_embedding(embedding, "float16")
    assert module.table.dtype == torch.float16
    ids = torch.arange(300)
    torch.testing.assert_close(module(ids), embedding.weight.half().float() * 3)


def test_small_tables_stay_float16() -> None:
    assert QuantizedEmbedding.like(nn.Embedding(2, 8), "int4").precision == "float16"


@pytest.mark.parametrize(("precision", "bad"), [("int8", -128), ("int4", 0x80), ("int4", 0x08)])
def test_codes_outside_the_alphabet_are_found(precision, bad) -> None:
    table, _ = quantize_table(torch.randn(300, 40), precision)
    check_codes(table, precision)
    table[123, 5] = bad
    with pytest.raises(ValueError, match=f"no {precision} code"):
        check_codes(table, precision)


@pytest.mark.parametrize("length", [1, 7, 8, 64, 1001])
def test_zero_nibbles_are_found_wherever_they_are(length) -> None:
    generator = torch.Generator().manual_seed(length)
    halves = torch.randint(1, 16, (2, length), generator=generator, dtype=torch.uint8)
    assert not any_zero_nibble(halves[0] | halves[1] << 4)
    for place in {0, length // 2, length - 1}:
        for half in (0, 1):
            spoiled = halves.clone()
            spoiled[half, place] = 0
            assert any_zero_nibble(spoiled[0] | spoiled[1] << 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_what_float16_cannot_hold_is_refused(value) -> None:
    weight = torch.zeros(300, 4)
    weight[17, 2] = value
    with pytest.raises(ValueError, match="NaN, infinite or too large"):
        quantize_table(weight, "int8")


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="no table precision 'int3'"):
        QuantizedEmbedding(10, 4, "int3")


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_a_rounded_token_table_is_stored_without_a_change(tiny_gemma3, precision, size) -> None:
    model, _ = tiny_gemma3
    embedding = model.get_input_embeddings()
    torch.manual_seed(0)
    with torch.no_grad():
        embedding.weight.copy_(torch.randn_like(embedding.weight) * size)
        embedding.weight[3] = 0
        embedding.weight[4, 1:] = 0
    before = embedding.weight.clone()
    round_token_table(model, precision)
    table, scale = quantize_table(before, precision)
    expected = decode_rows(table, scale, precision, embedding.embedding_dim)
    assert torch.equal(embedding.weight, expected)
    assert not torch.equal(embedding.weight, before)
    again, scale_again = quantize_table(embedding.weight.detach(), precision)
    assert torch.equal(decode_rows(again, scale_again, precision, embedding.embedding_dim), expected)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_what_was_converted_with_a_rounded_table_is_what_is_packed(
    make_embedder, sentences, tmp_path, architecture
) -> None:
    embedder = make_embedder(architecture)
    embedder.convert("all", None, token_table="int8")
    embedder.save_pretrained(tmp_path / "latent", "latent")
    again = BitEmbedder.from_pretrained(tmp_path / "latent")
    again.save_pretrained(tmp_path / "packed", "packed")
    packed = BitEmbedder.from_pretrained(tmp_path / "packed")
    assert {table.precision for table in quantized_tables(packed.model).values()} == {"int8"}
    assert np.array_equal(packed.encode(sentences), embedder.encode(sentences))
    again.save_pretrained(tmp_path / "float16", "packed", token_table="float16")
    as_half = BitEmbedder.from_pretrained(tmp_path / "float16")
    assert {table.precision for table in quantized_tables(as_half.model).values()} == {"float16"}
