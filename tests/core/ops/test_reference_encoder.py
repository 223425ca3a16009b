"""The plain encoder with a stated order of sums: its arithmetic against exact fractions, its vectors against native ones."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears, use_kernel
from bitembed_core.embedding_table import TABLE_PRECISIONS, quantize_tables
from bitembed_core.ops import library
from bitembed_core.ops.encoder import NativeEncoder, ReferenceEncoder
from bitembed_core.ops.encoder.architecture import rotation_table
from bitembed_core.ops.encoder.ordered import (
    error_function,
    exponential,
    fused,
    fused_product,
    ordered_sum,
    polynomial,
    root,
)
from bitembed_core.output_map import OutputMap
from bitembed_core.quantizers import quantize_weight
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation

needs_library = pytest.mark.skipif(not library.available(), reason="the native library was not built")

ARCHITECTURES = ["bert", "qwen3", "gemma3"]
LENGTHS = [1, 2, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 128]


def token_lists(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, 260, (length,), generator=generator).tolist() for length in lengths]


def nearest(exact: Fraction) -> np.float32:
    """The nearest float32, the even one of two."""
    guess = np.float32(float(exact))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(around, key=lambda y: (abs(Fraction(float(y)) - exact), int(y.view(np.int32)) & 1))


def hard_cases() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Factors and addends whose sum lies in the middle between two float32, just beside it, or cancels."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2000, generator=generator)
    c = torch.randn(2000, generator=generator)
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last bit is half a unit. The addends push it beyond float64's last bit.
    middle = torch.full((7,), 1 + 2.0**-12)
    beside = torch.tensor([0.0, 2.0**-60, -(2.0**-60), 2.0**-100, -(2.0**-100), 2.0**-54, -(2.0**-54)])
    cancelling = -(a[:500].double() * b[:500].double()).float()
    a = torch.cat([a, middle, -middle, a[:500]])
    b = torch.cat([b, middle, middle, b[:500]])
    return a, b, torch.cat([c, beside, beside, cancelling])


def test_fused_rounds_once() -> None:
    a, b, c = hard_cases()
    exact = [
        Fraction(x) * Fraction(y) + Fraction(z)
        for x, y, z in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)
    ]
    expected = torch.from_numpy(np.array([nearest(value) for value in exact]))
    assert torch.equal(fused(a, b, c), expected)
    twice = (a.double() * b.double() + c.double()).float()
    assert not torch.equal(twice, expected)  # the cases are hard ones


def test_a_product_is_a_chain_of_fused_steps() -> None:
    a, b, c = hard_cases()
    rows, columns = torch.stack([torch.ones_like(a), a], -1), torch.stack([c, b], -1)  # 1 c, then a b + that
    product = fused_product(rows.unsqueeze(1), columns.unsqueeze(2))
    assert torch.equal(product.flatten(), fused(a, b, c))


def test_a_polynomial_is_a_chain_of_fused_steps() -> None:
    x = torch.linspace(-2, 2, 1001)
    expected = fused(fused(torch.full_like(x, 0.3), x, -1.7), x, 0.1)
    assert torch.equal(polynomial(x, (0.3, -1.7, 0.1)), expected)


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 64, 100, 384, 640])
def test_sums_have_the_stated_order(size, chains) -> None:
    x = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    for row, total in zip(x.numpy(), ordered_sum(x, chains)[:, 0].numpy(), strict=True):
        lanes = np.zeros((chains, 16), np.float32)
        turns = size // (16 * chains)
        for i, value in enumerate(row):
            block = i // 16
            lanes[block % chains if block < turns * chains else 0, i % 16] += value
        one = lanes[0] if chains == 1 else (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
        for half in (8, 4, 2, 1):
            one = one[:half] + one[half:]
        assert total == one[0]


def test_roots_are_the_nearest() -> None:
    x = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 10
    assert root(x).tolist() == [float(np.float32(math.sqrt(value))) for value in x.tolist()]


def test_approximations_are_close() -> None:
    x = torch.linspace(-86, 86, 20_001)
    torch.testing.assert_close(exponential(x).double(), x.double().exp(), rtol=4e-7, atol=0)
    edges = torch.tensor([-torch.inf, -88.0, torch.nan])
    assert exponential(edges).nan_to_num(nan=7.0).tolist() == [0.0, 0.0, 7.0]
    x = torch.linspace(-5, 5, 20_001)
    torch.testing.assert_close(error_function(x).double(), x.double().erf(), rtol=0, atol=4e-7)


def test_rotations_are_cosines_and_sines_of_rounded_angles() -> None:
    table = rotation_table(1e6, 16, 700)
    for position in (0, 1, 511, 699):
        for i in range(8):
            frequency = np.float32(1 / 1e6 ** (2 * i / 16))
            angle = float(np.float32(position) * frequency)
            assert table[position, i] == np.float32(math.cos(angle))
            assert table[position, 8 + i] == np.float32(math.sin(angle))


@needs_library
@pytest.mark.parametrize("sites", ["all", "output", "none"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_native_vectors_are_the_references_bit_for_bit(isa, make_embedder, architecture, sites) -> None:
    embedder = make_embedder(architecture)
    embedder.convert(sites)
    ids = token_lists(LENGTHS)
    for pooling in ("last", "mean", "cls"):
        expected = ReferenceEncoder(embedder.model, pooling).encode(ids)
        assert torch.equal(NativeEncoder(embedder.model, pooling).encode(ids), expected)


@needs_library
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_every_activation(isa, make_embedder, activation) -> None:
    embedder = make_embedder("bert")
    embedder.model.config.hidden_act = activation
    embedder.convert()
    ids = token_lists([40, 7])
    assert torch.equal(
        NativeEncoder(embedder.model, "mean").encode(ids),
        ReferenceEncoder(embedder.model, "mean").encode(ids),
    )


@needs_library
@pytest.mark.parametrize("precision", TABLE_PRECISIONS)
def test_tables_of_few_bits_and_packed_weights(isa, make_embedder, precision) -> None:
    embedder = make_embedder("gemma3")
    embedder.convert()
    embedder.freeze()
    quantize_tables(embedder.model, precision)
    ids = token_lists([100, 3])
    assert torch.equal(
        NativeEncoder(embedder.model, "last").encode(ids),
        ReferenceEncoder(embedder.model, "last").encode(ids),
    )


@needs_library
def test_both_directions_and_texts_beyond_the_first_positions(isa, make_embedder) -> None:
    both = make_embedder("gemma3")
    both.model.config.use_bidirectional_attention = True
    for embedder, ids in [(both, token_lists(LENGTHS)), (make_embedder("qwen3"), token_lists([530]))]:
        embedder.convert()
        expected = ReferenceEncoder(embedder.model, "mean").encode(ids)
        assert torch.equal(NativeEncoder(embedder.model, "mean").encode(ids), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reference_computes_the_transformers_model(make_embedder, architecture) -> None:
    embedder = make_embedder(architecture)
    embedder.convert()
    ids = token_lists(LENGTHS)
    vectors = ReferenceEncoder(embedder.model, embedder.pooling).encode(ids)
    use_kernel(embedder.model, "reference")
    with torch.inference_mode():
        batches = [
            {"input_ids": torch.tensor([t]), "attention_mask": torch.ones(1, len(t), dtype=torch.long)}
            for t in ids
        ]
        expected = torch.cat([embedder.embed(batch) for batch in batches])
    # Sums in another order push some activation over a rounding step, which random models magnify.
    cosine = (vectors * expected).sum(dim=1)
    assert cosine.min() > 0.99
    assert cosine.median() > 0.99999


@needs_library
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_embedder_gives_the_same_on_both_kernels(make_embedder, sentences, architecture, tmp_path) -> None:
    embedder = make_embedder(architecture)
    embedder.convert()
    embedder.save_pretrained(tmp_path / "model", "packed")
    native, reference = (
        BitEmbedder.from_pretrained(tmp_path / "model", kernel=kernel).encode(sentences)
        for kernel in ("native", "reference")
    )
    np.testing.assert_array_equal(native, reference)


@pytest.mark.parametrize("kernel", ["native", "reference"])
def test_what_comes_after_pooling_knows_no_company(tiny_embedder, sentences, kernel) -> None:
    if kernel == "native" and not library.available():
        pytest.skip("the native library was not built")
    tiny_embedder.convert()
    tiny_embedder._use_kernel(kernel)
    matrix = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    tiny_embedder.output_map, tiny_embedder.rotation = OutputMap(matrix), Rotation.random(32)
    tiny_embedder.centre = Centre.of(torch.from_numpy(tiny_embedder.encode(sentences)))
    together = tiny_embedder.encode(sentences)
    np.testing.assert_array_equal(np.stack([tiny_embedder.encode(text) for text in sentences]), together)
    np.testing.assert_array_equal(tiny_embedder.encode(sentences[::-1])[::-1], together)


@needs_library
def test_the_number_of_threads_when_a_model_is_loaded_changes_nothing(make_embedder) -> None:
    ids = token_lists([60])
    vectors = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 8, 64):
            torch.set_num_threads(threads)
            embedder = make_embedder("qwen3")
            embedder.convert()
            vectors.append(NativeEncoder(embedder.model, "mean").encode(ids))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(vector, vectors[0]) for vector in vectors)


def test_a_weights_scale_depends_on_no_order() -> None:
    weight = torch.randn(1024, 640, generator=torch.Generator().manual_seed(0)) * 0.03
    expected = torch.tensor(math.fsum(weight.abs().flatten().tolist()) / weight.numel())
    shuffled = weight.flatten()[torch.randperm(weight.numel())].view(640, 1024)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            for form in (weight, weight.t(), shuffled):
                assert quantize_weight(form)[1] == expected
    finally:
        torch.set_num_threads(before)


def test_a_weight_that_changes_is_noticed(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    tiny_embedder._use_kernel("reference")
    before = tiny_embedder.encode(sentences)
    with torch.no_grad():
        for _, module in bit_linears(tiny_embedder.model):
            module.weight.add_(torch.randn_like(module.weight))
    assert not np.array_equal(tiny_embedder.encode(sentences), before)
