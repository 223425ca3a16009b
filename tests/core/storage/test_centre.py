"""The centre of a model's vectors: what it computes, what it is good for, and that it travels with the model."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from bitembed_core import BitEmbedder, StorageFormat
from bitembed_core.files import read_json, write_json
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation
from workbench.fingerprint import weights_fingerprint

ROTATION = Rotation.random(32, seed=5)
CENTRE = Centre(0.08 * torch.randn(32, generator=torch.Generator().manual_seed(2)))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_share_of_the_mean_is_taken_out() -> None:
    x = np.random.default_rng(0).standard_normal((50, 7)) + 1
    centre = Centre.of(torch.from_numpy(3 * x), share=0.6)  # lengths do not count
    c = 0.6 * unit(x).mean(axis=0)
    np.testing.assert_allclose(centre.vector.numpy(), c, atol=1e-6)
    around = centre(torch.from_numpy(unit(x)).float()).numpy()
    np.testing.assert_allclose(around, unit(unit(x) - c), atol=1e-6)
    untouched = Centre.of(torch.from_numpy(x), share=0)(torch.from_numpy(unit(x)).float())
    np.testing.assert_allclose(untouched.numpy(), unit(x), atol=1e-6)


@pytest.mark.parametrize("precision", ["binary-fitted", "int2-fitted", "trellis-1bit"])
def test_codes_tell_vectors_of_a_cone_apart(precision: str) -> None:
    """Noisy copies of vectors that share a direction, as those of language models, are found again by their codes."""
    generator = torch.Generator().manual_seed(0)
    common = 20 * torch.nn.functional.normalize(torch.randn(64, generator=generator), dim=0)
    documents = common + torch.randn(400, 64, generator=generator)
    queries = documents + 1.2 * torch.randn(400, 64, generator=generator)
    found = {}
    for share in (0.0, 0.8):
        centre = Centre.of(documents, share)
        d, q = (centre(torch.nn.functional.normalize(x, dim=1)) for x in (documents, queries))
        scores = StorageFormat(precision, 64).encode(d).scores(q.numpy())
        found[share] = (scores.argmax(axis=1) == np.arange(400)).mean()
    assert found[0.8] > found[0.0] + 0.15


def test_embeddings_are_mapped_centred_and_turned(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    before = tiny_embedder.encode(sentences)
    W = torch.eye(32) + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    tiny_embedder.output_map, tiny_embedder.centre, tiny_embedder.rotation = OutputMap(W), CENTRE, ROTATION
    mapped = unit(before @ W.numpy())
    expected = unit(mapped - CENTRE.vector.numpy()) @ ROTATION.matrix.numpy()
    np.testing.assert_allclose(tiny_embedder.encode(sentences), expected, atol=1e-5)
    embedded = tiny_embedder.embed(tiny_embedder.tokenize(sentences))
    np.testing.assert_allclose(embedded.detach().numpy(), expected, atol=1e-5)
    embedded[0, 0].backward()
    assert any(p.grad is not None and p.grad.any() for p in tiny_embedder.model.parameters())
    tiny_embedder.freeze()
    np.testing.assert_allclose(tiny_embedder.encode(sentences), expected, atol=0.03)  # the native encoder


@pytest.mark.parametrize("layout", ["release", "latent", "packed"])
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("rotation", [None, ROTATION])
def test_round_trip(tiny_embedder, sentences, tmp_path, layout, mapped, rotation) -> None:
    tiny_embedder.convert()
    tiny_embedder.centre, tiny_embedder.rotation = CENTRE, rotation
    tiny_embedder.output_map = OutputMap(1.1 * torch.eye(32) + 0.01) if mapped else None
    expected = tiny_embedder.encode(sentences)
    tiny_embedder.save_pretrained(tmp_path / "m", layout=layout)
    parts = [*(["output map"] if mapped else []), "centre", *(["rotation"] if rotation else [])]
    assert f"| then | {', '.join(parts)} |" in (tmp_path / "m" / "README.md").read_text()
    back = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert torch.equal(back.centre.vector, CENTRE.vector)
    assert (back.output_map is not None, back.rotation is not None) == (mapped, rotation is not None)
    np.testing.assert_allclose(back.encode(sentences), expected, atol=1e-5)


@pytest.mark.parametrize("rotation", [None, ROTATION])
@pytest.mark.parametrize("mapped", [False, True])
def test_sentence_transformers_takes_it_out_too(tiny_embedder, sentences, tmp_path, mapped, rotation) -> None:
    tiny_embedder.centre, tiny_embedder.rotation = CENTRE, rotation
    tiny_embedder.output_map = OutputMap(1.1 * torch.eye(32) + 0.01) if mapped else None
    tiny_embedder.save_pretrained(tmp_path / "m")
    stock = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(stock.encode(sentences), tiny_embedder.encode(sentences), atol=1e-5)


def test_it_counts_among_the_weights(tiny_embedder) -> None:
    before = weights_fingerprint(tiny_embedder)
    tiny_embedder.centre = CENTRE
    with_centre = weights_fingerprint(tiny_embedder)
    tiny_embedder.centre = Centre(CENTRE.vector / 2)
    assert len({before, with_centre, weights_fingerprint(tiny_embedder)}) == 3


def test_what_is_refused(tiny_embedder, make_embedder, tmp_path) -> None:
    for wrong, message in (
        (torch.zeros(2, 3), r"a float32 vector, not torch.float32 \(2, 3\)"),
        (torch.zeros(3, dtype=torch.float64), "not torch.float64"),
        (torch.ones(3), "shorter than the embeddings"),
        (torch.full((3,), torch.nan), "shorter than the embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            Centre(wrong)
    with pytest.raises(ValueError, match="of embeddings"):
        Centre.of(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="is 0 to 1, not"):
        Centre.of(torch.ones(2, 3), share=1.5)
    with pytest.raises(ValueError, match="have 32 dimensions, the centre 8"):
        tiny_embedder.centre = Centre(torch.zeros(8))
    decoder = make_embedder("qwen3")
    decoder.convert()
    decoder.centre = CENTRE
    with pytest.raises(ValueError, match="GGUF has no place for the centre"):
        decoder.save_pretrained(tmp_path / "m.gguf", layout="gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no Normalize before it", "not the identity right after a Normalize module"),
        ("another matrix", "not the identity right after a Normalize module"),
        ("two of them", "one with a bias is followed by more than a rotation"),
        ("too long", "shorter than the embeddings"),
        ("a lost bias", "do not agree on a bias"),
    ],
)
def test_other_layers_with_a_bias_are_refused(tiny_embedder, tmp_path, change, message) -> None:
    tiny_embedder.centre = CENTRE
    folder = tmp_path / "m"
    tiny_embedder.save_pretrained(folder)
    modules = read_json(folder / "modules.json")
    assert [m["type"].rpartition(".")[2] for m in modules[2:]] == ["Normalize", "Dense", "Normalize"]
    dense = folder / modules[3]["path"] / "model.safetensors"
    tensors = load_file(dense)
    if change == "no Normalize before it":
        modules = modules[:2] + modules[3:]
    elif change == "two of them":
        modules = modules[:4] + modules[2:]
    elif change == "a lost bias":
        save_file({"linear.weight": tensors["linear.weight"]}, dense)
    elif change == "another matrix":
        save_file(tensors | {"linear.weight": 2 * torch.eye(32)}, dense)
    else:
        save_file(tensors | {"linear.bias": torch.ones(32)}, dense)
    write_json(folder / "modules.json", modules)
    with pytest.raises(ValueError, match=re.escape(message)):
        BitEmbedder.from_pretrained(folder, device="cpu")
