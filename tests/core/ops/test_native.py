"""The native operations against their references, on every instruction set of this machine.

On other architectures the same file runs under an emulator (`make test-arm`).
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitembed_core.bitlinear import BitLinear
from bitembed_core.embedding_table import TABLE_PRECISIONS, QuantizedEmbedding
from bitembed_core.ops import library
from bitembed_core.ops.attention import native as native_attention
from bitembed_core.ops.attention import reference as reference_attention
from bitembed_core.ops.feed_forward import native as native_ffn
from bitembed_core.ops.feed_forward import reference as reference_ffn
from bitembed_core.ops.norm_quantize.native import norm_quantize
from bitembed_core.ops.rows.native import look_up, pool
from bitembed_core.ops.ternary_linear import Norm
from bitembed_core.ops.ternary_linear.blocked import quantize_normalised
from bitembed_core.ops.ternary_linear.native import PanelWeight, ternary_linear, ternary_linears
from bitembed_core.quantizers import EPS
from bitembed_core.ternary_packing import pack_ternary

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library was not built")

SHAPES = [
    (1, 1, 1),
    (7, 17, 5),
    (8, 640, 48),
    (9, 384, 100),
    (23, 33, 49),
    (2, 3072, 16),
    (70, 64, 20),
    (20, 1100, 33),  # few tokens of a matrix unit, whose weights are unpacked a part at a time
    (40, 4500, 50),  # many, of more weights than are unpacked at once
    (300, 100, 17),
    (1030, 40, 1024),  # more than a cache holds: a matrix unit writes past it
    (0, 8, 8),
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def random_codes(out: int, features: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(out + features)
    return torch.randint(-1, 2, (out, features), generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("kind", ["gauss", "largest sums", "smallest sums", "zero"])
@pytest.mark.parametrize(("tokens", "features", "out"), SHAPES)
def test_integers_are_exact(isa, tokens, features, out, kind) -> None:
    """With x = 127 c + (a token whose largest size is 127) every product is an integer times scale, with no rounding."""
    x = random(tokens, features).mul(40).round().clamp(-127, 127)
    if features > 1:
        x[:, 0] = 127  # fixes the scale, so that the codes are x itself
    codes = random_codes(out, features)
    if kind in ("largest sums", "smallest sums"):
        x, codes = torch.full_like(x, 127), torch.full_like(codes, 1 if kind[0] == "l" else -1)
    if kind == "zero":
        x.zero_()
    elif features == 1:
        x[:] = 127
    y = ternary_linear(x, PanelWeight(pack_ternary(codes), features), torch.tensor(1.0))
    scale = x.abs().amax(dim=1, keepdim=True) / 127 if tokens else torch.ones(0, 1)
    assert torch.equal(y, (x.long() @ codes.long().t()).float() * scale)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("tokens", "features", "out"), SHAPES)
def test_codes_are_those_of_the_reference(isa, tokens, features, out, normed) -> None:
    x, gain = random(tokens, features), random(features, seed=1)
    norm = Norm(gain, 1e-6) if normed else None
    codes, scale, inverse_rms = norm_quantize(x, norm)
    _, _, reference_rms = quantize_normalised(x, norm)
    torch.testing.assert_close(inverse_rms, reference_rms, rtol=1e-6, atol=0)
    normalised = x * inverse_rms * gain if normed else x
    largest = normalised.abs().amax(dim=1, keepdim=True) if tokens else torch.ones(0, 1)
    assert torch.equal(codes, (normalised * 127).div(largest + EPS).round().to(torch.int8))
    assert torch.equal(scale, largest / 127)


def test_codes_near_the_middle_of_two(isa) -> None:
    """Quotients a rounding error away from a half, where multiplying by a reciprocal would go wrong."""
    largest = 3.0
    halves = (torch.arange(-127, 127) + 0.5) * (largest + EPS) / 127
    x = torch.cat(
        [
            halves,
            torch.nextafter(halves, halves + 1),
            torch.nextafter(halves, halves - 1),
            torch.tensor([largest]),
        ]
    )
    codes, _, _ = norm_quantize(x[None], None)
    assert torch.equal(codes[0], (x * 127).div(largest + EPS).round().to(torch.int8))


def test_codes_around_the_middle_of_two(isa) -> None:
    """Quotients up to some hundred roundings away from a half, on both sides of where the exact division is asked."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 640, generator=generator) * 10 ** torch.linspace(-4, 6, 64)[:, None]
    largest = x.abs().amax(dim=1, keepdim=True)
    halves = (torch.randint(-126, 126, x.shape, generator=generator) + 0.5) * (largest + EPS) / 127
    halves *= 1 + 2.0**-24 * torch.randint(-400, 401, x.shape, generator=generator)
    x[:, 1::2] = halves.clamp(-largest, largest)[:, 1::2]
    codes, _, _ = norm_quantize(x, None)
    largest = x.abs().amax(dim=1, keepdim=True)
    assert torch.equal(codes, (x * 127).div(largest + EPS).round().to(torch.int8))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-30, 1e30, 3e38])
def test_extreme_sizes(isa, value) -> None:
    x = torch.full((3, 50), value)
    x[:, ::2] *= -0.5
    codes, scale, _ = norm_quantize(x, None)
    expected, expected_scale, _ = quantize_normalised(x, None)
    if value < 1e38:  # 127 x overflows beyond, in the reference as well
        assert torch.equal(codes, expected)
    assert torch.equal(scale, expected_scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_a_number_is_not_hidden(isa, bad) -> None:
    x = random(5, 40)
    x[3, 17] = bad
    y = ternary_linear(x, PanelWeight(pack_ternary(random_codes(6, 40)), 40), torch.tensor(1.0))
    assert torch.isfinite(y[[0, 1, 2, 4]]).all()
    assert not torch.isfinite(y[3]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "features", "out"), SHAPES)
def test_several_projections_with_norm_and_bias(isa, tokens, features, out, dtype) -> None:
    x = random(tokens, features).to(dtype)
    gains = [random(features, seed=2), random(features, seed=3)]
    biases = [random(out), None]
    weights = [PanelWeight(pack_ternary(random_codes(out + i, features)), features) for i in range(2)]
    operands = [w.operand(0.7, b, Norm(g, 1e-5)) for w, b, g in zip(weights, biases, gains, strict=True)]
    together = ternary_linears(x, operands)
    for i, (gain, bias) in enumerate(zip(gains, biases, strict=True)):
        codes, scale, _ = norm_quantize(x.float(), Norm(gain, 1e-5))
        sums = codes.long() @ random_codes(out + i, features).long().t()
        expected = sums.float() * (scale * torch.tensor(0.7))
        expected = expected if bias is None else expected + bias
        assert torch.equal(together[i], expected.to(dtype))


def test_damaged_weights_are_refused(isa) -> None:
    packed = pack_ternary(random_codes(20, 37))
    packed[19, 4] |= 3
    with pytest.raises(ValueError, match="no ternary code"):
        PanelWeight(packed, 37)


@pytest.mark.parametrize("activation", library.ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tokens", [1, 5, 70])
def test_feed_forward(isa, tokens, gated, activation) -> None:
    torch.manual_seed(0)
    sizes = [(40, 100), (40, 100), (100, 24)]
    gate, up, down = (BitLinear(a, b, bias=b != 100, norm_eps=1e-6) for a, b in sizes)
    for linear in (gate, up, down):
        nn.init.uniform_(linear.norm.weight, 0.5, 2)
        linear.freeze()
    x = random(tokens, 40) * 3
    arguments = (gate if gated else None, up, down, activation)
    expected, actual = reference_ffn.feed_forward(x, *arguments), native_ffn.feed_forward(x, *arguments)
    # A code may fall to its other neighbour; the sum of a row then moves by one step.
    step = down.weight_scale * expected.abs().max() / 20
    assert (expected - actual).abs().max() < 2 * step
    assert (expected - actual).abs().median() < 1e-4 * expected.abs().max()


LENGTHS = [[1], [5], [16, 1, 17], [33, 64, 3], [130]]


@pytest.mark.parametrize("window", [0, 1, 7, 40])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 1, 64), (4, 2, 24), (3, 3, 10)])
def test_attention(isa, lengths, causal, window, heads, kv_heads, width) -> None:
    offsets = library.text_offsets(lengths)
    q = random(sum(lengths), heads, width) * 2
    k, v = (random(sum(lengths), kv_heads, width, seed=seed) for seed in (1, 2))
    expected = reference_attention.attention(q, k, v, offsets, 0.3, causal, window)
    actual = native_attention.attention(q, k, v, offsets, 0.3, causal, window)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=3e-6)


def test_attention_of_huge_scores(isa) -> None:
    offsets = library.text_offsets([20])
    q, k, v = random(20, 1, 16) * 1e4, random(20, 1, 16, seed=1), random(20, 1, 16, seed=2)
    expected = reference_attention.attention(q, k, v, offsets, 1.0, causal=True)
    torch.testing.assert_close(
        native_attention.attention(q, k, v, offsets, 1.0, causal=True), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("width", [64, 24, 10])
def test_rotation(isa, width) -> None:
    offsets = library.text_offsets([5, 1, 30])
    angles = torch.arange(30)[:, None] * 10000.0 ** -torch.linspace(0, 1, width // 2)
    rotations = torch.cat([angles.cos(), angles.sin()], dim=1).contiguous()
    x = random(36, 3, width)
    expected = reference_attention.rotate(x, offsets, rotations)
    torch.testing.assert_close(native_attention.rotate(x, offsets, rotations), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", TABLE_PRECISIONS)
@pytest.mark.parametrize("width", [1, 31, 640])
def test_table_look_up_is_exact(isa, precision, width) -> None:
    embedding = nn.Embedding.from_pretrained(random(300, width))
    embedding.weight[7] = 0
    embedding.weight[8] = 1e-7  # subnormal in float16
    quantized = QuantizedEmbedding.from_embedding(embedding, precision)
    quantized.multiplier = 25.25
    ids = torch.tensor([0, 299, 7, 8, 8, *range(200)])
    assert torch.equal(look_up(quantized, ids), quantized(ids))


@pytest.mark.parametrize("mode", ["last", "mean", "cls"])
def test_pooling(isa, mode) -> None:
    offsets = library.text_offsets([1, 7, 30])
    states = random(38, 50)
    texts = states.split([1, 7, 30])
    pick = {"last": lambda t: t[-1], "mean": lambda t: t.mean(dim=0), "cls": lambda t: t[0]}[mode]
    expected = F.normalize(torch.stack([pick(text) for text in texts]), dim=-1)
    torch.testing.assert_close(pool(states, offsets, mode), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("any_zero_nibble", list(range(0x11, 0x20)), [0x0F, 0xF0, 0]),
        ("any_field_3", [0, 0x55, 0xAA, 0x12], [3, 0xC0, 0x5D]),
    ],
)
def test_bytes_that_are_no_codes_are_found(name, good, bad) -> None:
    find = getattr(library.native(), f"bitembed_{name}")
    whole = torch.tensor(good, dtype=torch.uint8)[torch.randint(len(good), (700_001,))]
    assert find(whole.data_ptr(), len(whole), 2) == 0
    for position, value in zip((0, 350_000, 700_000), bad, strict=True):
        damaged = whole.clone()
        damaged[position] = value
        assert find(damaged.data_ptr(), len(damaged), 2) == 1


def test_isas_are_named_and_unknown_ones_refused() -> None:
    assert library.isa() in library.supported_isas()
    assert set(library.supported_isas()) <= set(library.native().bitembed_compiled().decode().split())
    with pytest.raises(ValueError, match="does not run here"):
        library.select_isa("avx1024")


def test_operands_hold_their_tensors() -> None:
    """The library is given addresses only: what they belong to must not be freed, nor its memory used again."""
    packed = pack_ternary(torch.ones(16, 32, dtype=torch.int8))
    operand = PanelWeight(packed, 32).operand(1.0, torch.full((16,), 3.0), Norm(torch.full((32,), 2.0), 0.0))
    others = [torch.full((n,), math.nan) for n in (16, 32, 128, 256) for _ in range(100)]  # noqa: F841
    (y,) = ternary_linears(torch.ones(1, 32), [operand])
    torch.testing.assert_close(y, torch.full((1, 16), 2.0 * 32 + 3.0))
