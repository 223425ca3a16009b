"""Attention over texts without padding and what its heads go through before, against their equations in float64."""

import numpy as np
import pytest
import torch

from bitembed_core.ops.attention import reference
from bitembed_core.ops.attention.triton import (
    Heads,
    attention,
    block_queries,
    fitted_queries,
    fitted_span,
    prepare_heads,
    query_blocks,
)

LENGTHS = {
    "one token": [1],
    "equal": [16, 16],
    "mixed": [3, 16, 1, 65, 17],
    "long": [197, 2],
}
HEADS = {
    "alike": Heads(2, 2, 32),
    "grouped": Heads(4, 1, 16),
    "narrow": Heads(6, 2, 24),
    "odd": Heads(2, 1, 9),
}


def states(lengths: list[int], heads: Heads, device: torch.device, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(lengths))
    return torch.randn(sum(lengths), heads.columns, generator=generator).to(device, dtype)


def blocks_of(lengths: list[int], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(query_blocks(np.array(lengths), block_queries(32, device))).to(device)


def expected_attention(qkv, lengths, heads, scale, causal, window) -> torch.Tensor:
    sizes = [heads.queries, heads.keys, heads.keys]
    split = qkv.double().cpu().split([n * heads.width for n in sizes], dim=1)
    q, k, v = (part.unflatten(1, (-1, heads.width)) for part in split)
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return reference.attention(q, k, v, offsets, scale, causal, window).flatten(1)


@pytest.mark.parametrize("window", [0, 1, 7, 40])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_attention(lengths, heads, causal, window, device) -> None:
    lengths, heads = LENGTHS[lengths], HEADS[heads]
    qkv = states(lengths, heads, device)
    actual = attention(qkv, blocks_of(lengths, device), heads, 0.3, causal, window)
    expected = expected_attention(qkv, lengths, heads, 0.3, causal, window)
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=1e-5)


def test_attention_of_large_scores(device) -> None:
    """One key takes everything; without the running maximum exponentials would overflow."""
    lengths, heads = [40], HEADS["alike"]
    qkv = 10 * states(lengths, heads, device)  # scores up to 2000, in units of e
    actual = attention(qkv, blocks_of(lengths, device), heads, 1.0, False)
    expected = expected_attention(qkv, lengths, heads, 1.0, False, 0)
    assert torch.isfinite(actual).all()
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-3, atol=1e-2)


def test_attention_in_half_precision(device) -> None:
    lengths, heads = [33, 5], HEADS["grouped"]
    qkv = states(lengths, heads, device, torch.float16)
    actual = attention(qkv, blocks_of(lengths, device), heads, 0.25, True)
    assert actual.dtype == torch.float16
    expected = expected_attention(qkv, lengths, heads, 0.25, True, 0)
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=3e-3, atol=3e-3)


def test_a_text_does_not_see_its_neighbours(device) -> None:
    """Bit for bit the same alone and between others, with tokens of no text and empty blocks behind."""
    lengths, heads = [20, 37, 9], HEADS["grouped"]
    qkv = states(lengths, heads, device)
    together = attention(qkv, blocks_of(lengths, device), heads, 0.2, False, 11)
    alone = attention(qkv[20:57].contiguous(), blocks_of([37], device), heads, 0.2, False, 11)
    assert torch.equal(together[20:57], alone)
    more = torch.cat([qkv, qkv.new_full((5, heads.columns), torch.nan)])
    empty = torch.nn.functional.pad(blocks_of(lengths, device), (0, 3))
    assert torch.equal(attention(more, empty, heads, 0.2, False, 11)[:66], together)


def test_nothing_to_attend_to(device) -> None:
    heads = HEADS["alike"]
    qkv = torch.zeros(0, heads.columns, device=device)
    blocks = torch.zeros(3, 0, dtype=torch.int32, device=device)
    assert attention(qkv, blocks, heads, 1.0, True).shape == (0, 64)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("heads", ["alike", "grouped", "narrow"])
def test_heads_are_normalised_and_rotated(heads, normed, rotated, device) -> None:
    lengths, heads = [5, 3], HEADS[heads]
    qkv = states(lengths, heads, device)
    weights = torch.linspace(-1, 2, 2 * heads.width).view(2, -1)
    angles = torch.rand(10, heads.width // 2, generator=torch.Generator().manual_seed(0)) * 6
    rotations = torch.cat([angles.cos(), angles.sin()], dim=1)
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2], dtype=torch.int32, device=device)
    actual = qkv.clone()
    prepare_heads(
        actual,
        heads,
        weights.to(device) if normed else None,
        1e-6,
        rotations.to(device) if rotated else None,
        positions,
    )
    both = (heads.queries + heads.keys) * heads.width
    assert torch.equal(actual[:, both:], qkv[:, both:])  # values stay
    x = qkv[:, :both].cpu().double().unflatten(1, (-1, heads.width))
    if normed:
        gains = weights.repeat_interleave(torch.tensor([heads.queries, heads.keys]), dim=0).double()
        x = x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * gains
    if rotated:
        x = reference.rotate(x, torch.tensor([0, 5, 8]), rotations.double())
    torch.testing.assert_close(actual[:, :both].cpu().double(), x.flatten(1), rtol=1e-5, atol=1e-5)


def test_arguments_that_do_not_fit(device) -> None:
    blocks = blocks_of([4], device)
    with pytest.raises(ValueError, match="96 columns"):
        attention(torch.zeros(4, 95, device=device), blocks, Heads(1, 1, 32), 1.0, True)
    with pytest.raises(ValueError, match="contiguous"):
        attention(torch.zeros(96, 4, device=device).t(), blocks, Heads(1, 1, 32), 1.0, True)
    positions = torch.zeros(4, dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match="no halves"):
        prepare_heads(torch.zeros(4, 36, device=device), HEADS["odd"], torch.ones(2, 9), 0.0, None, positions)
    with pytest.raises(ValueError, match="divide"):
        attention(torch.zeros(4, 224, device=device), blocks, Heads(3, 2, 32), 1.0, True)


def test_a_large_card_has_room_for_two_programs_of_large_blocks() -> None:
    """Of half precision on an H100; float32 and small cards take smaller blocks."""
    assert fitted_span(128, 64, 2, 227 * 1024) == (32, 3)
    assert fitted_span(128, 64, 2, 99 * 1024) == (32, 2)
    assert fitted_span(256, 64, 2, 227 * 1024) == (32, 2)
    assert fitted_span(256, 64, 4, 227 * 1024) == (16, 1)


def test_wide_heads_take_fewer_queries_where_memory_is_small() -> None:
    """Gemma's of 256 components in float32 do not fit into an RTX 4090 with 64; test_compilation.py compiles them."""
    assert [fitted_queries(256, kib * 1024) for kib in (227, 163, 99, 64)] == [64, 64, 32, 16]
    assert [fitted_queries(width, 99 * 1024) for width in (32, 64, 128)] == [64, 64, 64]
