"""The native encoder against the torch model, and that a text's vector depends on nothing but the text."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears, use_kernel
from bitembed_core.ops import library
from bitembed_core.ops.encoder import NativeEncoder, NotDescribed, describe

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library was not built")

ARCHITECTURES = ["bert", "qwen3", "gemma3"]
SITES = ["all", "output", "none"]
LENGTHS = [1, 2, 8, 9, 15, 16, 17, 31, 33, 64, 127, 128]


def token_lists(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(4, 260, (length,), generator=generator).tolist() for length in lengths]


def by_torch(embedder: BitEmbedder, ids: list[list[int]]) -> torch.Tensor:
    """Each text alone, without padding, on the plain reference kernel."""
    use_kernel(embedder.model, "reference")
    with torch.inference_mode():
        batches = [
            {"input_ids": torch.tensor([t]), "attention_mask": torch.ones(1, len(t), dtype=torch.long)}
            for t in ids
        ]
        return torch.cat([embedder.embed(batch) for batch in batches])


@pytest.mark.parametrize("sites", SITES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectors_are_those_of_the_torch_model(isa, make_embedder, architecture, sites) -> None:
    embedder = make_embedder(architecture)
    embedder.convert(sites)
    ids = token_lists(LENGTHS)
    native = NativeEncoder(embedder.model, embedder.pooling).encode(ids)
    cosine = (native * by_torch(embedder, ids)).sum(dim=1)
    # An activation may fall on the other side of a rounding step, and random models magnify that; most do not.
    assert cosine.min() > 0.99
    assert cosine.median() > 0.99999


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_pooling_is_the_embedders(make_embedder, pooling) -> None:
    embedder = make_embedder("bert")
    embedder.convert()
    embedder.settings.pooling = pooling
    ids = token_lists(LENGTHS)
    cosine = (NativeEncoder(embedder.model, pooling).encode(ids) * by_torch(embedder, ids)).sum(dim=1)
    assert cosine.median() > 0.99999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_company_order_and_threads_change_nothing(isa, make_embedder, architecture) -> None:
    embedder = make_embedder(architecture)
    embedder.convert()
    encoder = NativeEncoder(embedder.model, embedder.pooling)
    ids = token_lists(LENGTHS)
    alone = torch.cat([encoder.encode([tokens]) for tokens in ids])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            assert torch.equal(encoder.encode(ids), alone)
            assert torch.equal(encoder.encode(ids[::-1]), alone.flip(0))
    finally:
        torch.set_num_threads(threads)


def test_bidirectional_gemma(make_embedder) -> None:
    embedder = make_embedder("gemma3")
    embedder.model.config.use_bidirectional_attention = True
    for layer in embedder.model.layers:
        layer.self_attn.is_causal = False
    embedder.convert()
    ids = token_lists(LENGTHS)
    native = NativeEncoder(embedder.model, "mean").encode(ids)
    embedder.settings.pooling = "mean"
    cosine = (native * by_torch(embedder, ids)).sum(dim=1)
    assert cosine.median() > 0.9999


def test_texts_longer_than_the_first_rotations(make_embedder) -> None:
    embedder = make_embedder("qwen3")
    embedder.convert()
    ids = token_lists([600, 3])
    encoder = NativeEncoder(embedder.model, embedder.pooling)
    assert encoder._rotations["all"].shape[0] == 512
    cosine = (encoder.encode(ids) * by_torch(embedder, ids)).sum(dim=1)
    assert cosine.min() > 0.999


def test_encode_follows_the_weights(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    before = tiny_embedder.encode(sentences)
    with torch.no_grad():
        for parameter in tiny_embedder.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    after = tiny_embedder.encode(sentences)
    assert not np.array_equal(before, after)
    tiny_embedder.freeze()
    assert np.array_equal(tiny_embedder.encode(sentences), after)
    tiny_embedder.settings.pooling = "cls"
    assert not np.array_equal(tiny_embedder.encode(sentences), after)


@pytest.mark.parametrize("fused", [True, False])
def test_encode_follows_an_optimizer(make_embedder, tiny_embedder, sentences, fused) -> None:
    """A fused one writes to parameters without giving them a new version number."""
    tiny_embedder.convert()
    before = tiny_embedder.encode(sentences)
    tiny_embedder.model.requires_grad_(True)
    weights = [module.weight for _, module in bit_linears(tiny_embedder.model)]
    optimizer = torch.optim.AdamW(weights, lr=0.1, fused=fused)
    tiny_embedder.embed(tiny_embedder.tokenize(sentences)).sum().backward()
    optimizer.step()
    fresh = make_embedder("bert")
    fresh.convert()
    fresh.model.load_state_dict(tiny_embedder.model.state_dict())
    after = tiny_embedder.encode(sentences)
    np.testing.assert_array_equal(after, fresh.encode(sentences))
    assert (after * before).sum(axis=1).max() < 0.999


def test_packed_tables_and_weights_run_as_they_lie_on_disk(tiny_embedder, sentences, tmp_path) -> None:
    tiny_embedder.convert()
    tiny_embedder.save_pretrained(tmp_path / "packed", "packed", token_table="int8")
    packed = BitEmbedder.from_pretrained(tmp_path / "packed")
    native = packed.encode(sentences)
    assert packed._encoder is not None
    assert all(
        m.codes is None for m in packed.model.modules() if hasattr(m, "packed_codes")
    )  # never unpacked
    by_layers = BitEmbedder.from_pretrained(tmp_path / "packed", kernel="int8").encode(sentences)
    assert (native * by_layers).sum(axis=1).min() > 0.999


def test_models_that_are_not_described_run_layer_by_layer(tiny_embedder, sentences, caplog) -> None:
    tiny_embedder.convert()
    expected = tiny_embedder.encode(sentences)
    tiny_embedder.model.config.is_decoder = True
    tiny_embedder._encoder = None
    with pytest.raises(NotDescribed):
        describe(tiny_embedder.model)
    tiny_embedder.model.config.is_decoder = True
    with caplog.at_level(logging.WARNING):
        tiny_embedder._own_encoder()
    assert "layer by layer" in caplog.text
    tiny_embedder.model.config.is_decoder = False
    assert (tiny_embedder.encode(sentences) * expected).sum(axis=1).min() > 0.99


def test_many_texts_are_cut_into_batches(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    many = [f"{text} {i}" for i in range(150) for text in sentences]
    vectors = tiny_embedder.encode(many)
    for row in (0, 511, 512, 1199):
        assert np.array_equal(vectors[row], tiny_embedder.encode(many[row]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no texts"),
        ([[5], []], "no tokens"),
        ([[5, 260]], "tokenizer belongs to another model"),
        ([[-1]], "tokenizer belongs to another model"),
        ([[5] * 129], "has 128 positions"),
    ],
)
def test_ids_that_the_model_does_not_have_are_refused(tiny_embedder, ids, message) -> None:
    tiny_embedder.convert()
    with pytest.raises(ValueError, match=message):
        NativeEncoder(tiny_embedder.model, "mean").encode(ids)


def test_running_out_of_memory_is_an_error(make_embedder) -> None:
    """A text of two million tokens under an address-space limit, in a process of its own."""
    script = """
import resource, torch
from tests.conftest import tiny_embedder_of
from bitembed_core.ops.encoder import NativeEncoder
embedder = tiny_embedder_of("qwen3")
embedder.convert()
encoder = NativeEncoder(embedder.model, "mean")
encoder._rotations = {kind: torch.empty(1 << 22, 16) for kind in encoder._rotations}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), used + (1 << 28)))
try:
    encoder.encode([[5] * (1 << 21)])
except MemoryError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "refused: not enough memory" in done.stdout, done.stderr


def test_without_the_library_models_run_on_int8_and_it_is_said(
    tiny_embedder, sentences, monkeypatch, caplog
) -> None:
    tiny_embedder.convert()
    expected = tiny_embedder.encode(sentences)
    library.load.cache_clear()
    monkeypatch.setattr(library, "_find", lambda: None)
    try:
        with caplog.at_level(logging.WARNING):
            tiny_embedder._use_kernel("auto")
        assert tiny_embedder.kernel == "int8"
        assert caplog.text.count("native operations were not built") == 1
        assert (tiny_embedder.encode(sentences) * expected).sum(axis=1).min() > 0.99
        with pytest.raises(ValueError, match="were not built"):
            use_kernel(tiny_embedder.model, "native")
    finally:
        library.load.cache_clear()


def test_an_instruction_set_that_is_not_here_is_refused(monkeypatch) -> None:
    library.load.cache_clear()
    monkeypatch.setenv(library.ISA_VARIABLE, "avx1024")
    try:
        with pytest.raises(ValueError, match="avx1024: not on this machine, which has"):
            library.load()
    finally:
        library.load.cache_clear()


def test_a_model_that_moves_leaves_its_encoder(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    tiny_embedder.encode(sentences)
    assert tiny_embedder._own_encoder() is not None
    tiny_embedder.model.to("meta")
    assert tiny_embedder._own_encoder() is None
