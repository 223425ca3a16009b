"""A model's rotation travels with it, and stock sentence-transformers applies it."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from bitembed_core import BitEmbedder
from bitembed_core.files import read_json, write_json
from bitembed_core.storage.rotation import Rotation

ROTATION = Rotation.random(32, seed=5)


def test_vectors_are_turned_and_cosines_stay(tiny_embedder, sentences) -> None:
    before = tiny_embedder.encode(sentences)
    tiny_embedder.rotation = ROTATION
    after = tiny_embedder.encode(sentences)
    np.testing.assert_allclose(after, before @ ROTATION.matrix.numpy(), atol=1e-6)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    with torch.no_grad():
        trained = tiny_embedder.embed(tiny_embedder.tokenize(sentences))
    np.testing.assert_allclose(trained.numpy(), after, atol=1e-5)


@pytest.mark.parametrize("layout", ["release", "latent", "packed"])
def test_round_trip(tiny_embedder, sentences, tmp_path, layout) -> None:
    tiny_embedder.convert()
    tiny_embedder.rotation = ROTATION
    expected = tiny_embedder.encode(sentences)
    tiny_embedder.save_pretrained(tmp_path / "m", layout=layout)
    back = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert torch.equal(back.rotation.matrix, ROTATION.matrix)
    np.testing.assert_allclose(back.encode(sentences), expected, atol=1e-5)


def test_sentence_transformers_turns_them_too(tiny_embedder, sentences, tmp_path) -> None:
    tiny_embedder.rotation = ROTATION
    tiny_embedder.save_pretrained(tmp_path / "m")
    stock = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(stock.encode(sentences), tiny_embedder.encode(sentences), atol=1e-5)


def test_native_vectors_are_turned(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    tiny_embedder.freeze()
    before = tiny_embedder.encode(sentences)
    tiny_embedder.rotation = ROTATION
    np.testing.assert_allclose(tiny_embedder.encode(sentences), before @ ROTATION.matrix.numpy(), atol=1e-5)
    tiny_embedder.rotation = None
    np.testing.assert_array_equal(tiny_embedder.encode(sentences), before)


def test_what_is_refused(make_embedder, tiny_embedder, tmp_path) -> None:
    with pytest.raises(ValueError, match="have 32 dimensions, the rotation 8"):
        tiny_embedder.rotation = Rotation.random(8)
    tiny_embedder.rotation = ROTATION
    tiny_embedder.save_pretrained(tmp_path / "m")
    dense = tmp_path / "m" / "2_Dense"
    weights, config = load_file(dense / "model.safetensors"), read_json(dense / "config.json")

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
        save_file(weights, dense / "model.safetensors")
        write_json(dense / "config.json", config)

    save_file({"linear.weight": torch.ones(8, 32)}, dense / "model.safetensors")
    refused(
        r"no map of its embeddings onto as many components: .* square float32 matrix, not torch.float32 \(32, 8\)"
    )
    save_file({"linear.weight": torch.full((32, 32), torch.nan)}, dense / "model.safetensors")
    refused("NaN or infinite: damaged")
    save_file({"linear.weight": torch.eye(8)}, dense / "model.safetensors")
    refused("have 32 dimensions, the rotation 8")
    write_json(dense / "config.json", config | {"activation_function": "torch.nn.modules.activation.Tanh"})
    refused("plain matrices and centres only: it has an activation function")
    (dense / "model.safetensors").write_bytes(b"\0" * 40)
    refused("plain matrices and centres only")
    decoder = make_embedder("qwen3")
    decoder.convert()
    decoder.rotation = ROTATION
    with pytest.raises(ValueError, match="GGUF has no place for the rotation"):
        decoder.save_pretrained(tmp_path / "m.gguf", layout="gguf")
    assert not (tmp_path / "m.gguf").exists()
