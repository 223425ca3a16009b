"""The closed form of the map, and embeddings through it: ours, stored ones, and those of stock sentence-transformers."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from bitembed_core import BitEmbedder
from bitembed_core.files import read_json, write_json
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.rotation import Rotation

ROTATION = Rotation.random(32, seed=5)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def stretched() -> OutputMap:
    noise = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    return OutputMap(torch.eye(32) + 0.1 * noise)


def test_fit_is_the_least_squares_solution_held_back_to_the_identity() -> None:
    """`|x W - y|^2 + 10 |W - 1|^2` is the squared error of one system: x over sqrt(10) 1 against y over sqrt(10) 1."""
    generator = np.random.default_rng(0)
    x, y = unit(generator.standard_normal((200, 7))), unit(generator.standard_normal((200, 7)))
    anchor = np.sqrt(10) * np.eye(7)
    expected = np.linalg.lstsq(np.vstack([x, anchor]), np.vstack([y, anchor]), rcond=None)[0]
    fitted = OutputMap.fit(torch.from_numpy(3 * x), torch.from_numpy(y))  # lengths do not count
    np.testing.assert_allclose(fitted.matrix.numpy(), expected, atol=1e-6)


def test_fit_undoes_a_stretching() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(5000, 16, generator=generator)
    x = torch.nn.functional.normalize(
        y @ (torch.eye(16) + 0.15 * torch.randn(16, 16, generator=generator)), dim=1
    )
    y = torch.nn.functional.normalize(y, dim=1)
    fitted = OutputMap.fit(x[:4000], y[:4000])
    before, after = ((side[4000:] * y[4000:]).sum(dim=1).mean() for side in (x, fitted(x)))
    assert 1 - after < (1 - before) / 5
    assert torch.allclose(fitted(x).norm(dim=1), torch.ones(5000), atol=1e-5)


def test_flattening_takes_a_power_of_the_spectrum() -> None:
    """Mean squares along the principal axes, relative to each other, before the last normalisation; axes stay."""
    generator = np.random.default_rng(0)
    x = unit(generator.standard_normal((5000, 12)) @ np.diag(np.geomspace(1, 0.1, 12)) + 0.3)
    axes = np.linalg.eigh(x.T @ x)[1]
    before = np.square(x @ axes).mean(axis=0)
    for power in (0.0, 0.3, 1.0):
        matrix = OutputMap.flattening(torch.from_numpy(7 * x), power).matrix.numpy()
        after = np.square(x @ matrix @ axes).mean(axis=0)
        np.testing.assert_allclose(
            after / after.mean(), before ** (1 - power) / (before ** (1 - power)).mean(), rtol=1e-4
        )
    mapped = OutputMap.flattening(torch.from_numpy(x), 0.3)(torch.from_numpy(x))
    torch.testing.assert_close(mapped.norm(dim=1), torch.ones(5000).double())


def test_flattening_of_vectors_that_fill_no_space() -> None:
    """What embeddings have nothing of is not blown up: it counts as a thousandth of the mean."""
    x = torch.zeros(50, 4)
    x[:, 0] = 1
    x[::2, 1] = 1
    matrix = OutputMap.flattening(x, 1.0).matrix
    assert matrix[2, 2] == pytest.approx(1e-3**-0.5, rel=1e-4)
    assert torch.isfinite(matrix).all()
    with pytest.raises(ValueError, match="at least as many"):
        OutputMap.flattening(x[:3])
    with pytest.raises(ValueError, match="power of 0 to 1"):
        OutputMap.flattening(x, 1.5)


def test_one_map_after_the_other(stretched) -> None:
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(2))
    other = OutputMap.flattening(torch.randn(40, 32, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(stretched.then(other)(x), other(stretched(x)))


def test_embeddings_are_mapped_then_turned(tiny_embedder, sentences, stretched) -> None:
    tiny_embedder.convert()
    before = tiny_embedder.encode(sentences)
    tiny_embedder.output_map, tiny_embedder.rotation = stretched, ROTATION
    expected = unit(before @ stretched.matrix.numpy()) @ ROTATION.matrix.numpy()
    np.testing.assert_allclose(tiny_embedder.encode(sentences), expected, atol=1e-5)
    embedded = tiny_embedder.embed(tiny_embedder.tokenize(sentences))
    np.testing.assert_allclose(embedded.detach().numpy(), expected, atol=1e-5)
    embedded[0, 0].backward()
    assert any(p.grad is not None and p.grad.any() for p in tiny_embedder.model.parameters())
    tiny_embedder.freeze()
    np.testing.assert_allclose(tiny_embedder.encode(sentences), expected, atol=0.02)  # the native encoder


@pytest.mark.parametrize("layout", ["release", "latent", "packed"])
@pytest.mark.parametrize("rotation", [None, ROTATION])
def test_round_trip(tiny_embedder, sentences, stretched, tmp_path, layout, rotation) -> None:
    tiny_embedder.convert()
    tiny_embedder.output_map, tiny_embedder.rotation = stretched, rotation
    expected = tiny_embedder.encode(sentences)
    tiny_embedder.save_pretrained(tmp_path / "m", layout=layout)
    made = "output map" if rotation is None else "output map, rotation"
    assert f"| then | {made} |" in (tmp_path / "m" / "README.md").read_text()
    back = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert torch.equal(back.output_map.matrix, stretched.matrix)
    assert (back.rotation is None) == (rotation is None)
    np.testing.assert_allclose(back.encode(sentences), expected, atol=1e-5)


def test_sentence_transformers_maps_them_too(tiny_embedder, sentences, stretched, tmp_path) -> None:
    tiny_embedder.output_map, tiny_embedder.rotation = stretched, ROTATION
    tiny_embedder.save_pretrained(tmp_path / "m")
    stock = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(stock.encode(sentences), tiny_embedder.encode(sentences), atol=1e-5)


def test_dense_layers_of_other_models_are_read(tiny_embedder, sentences, tmp_path) -> None:
    """As EmbeddingGemma has them: to four times as many components, and back."""
    folder = tmp_path / "m"
    tiny_embedder.save_pretrained(folder)
    modules = read_json(folder / "modules.json")
    layers = []
    for number, (inputs, outputs) in enumerate([(32, 128), (128, 32)], start=2):
        path = f"{number}_Dense"
        (folder / path).mkdir()
        settings = {"in_features": inputs, "out_features": outputs, "bias": False}
        settings["activation_function"] = "torch.nn.modules.linear.Identity"
        write_json(folder / path / "config.json", settings)
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(number))
        save_file({"linear.weight": weight}, folder / path / "model.safetensors")
        layers.append(
            {"idx": number, "name": str(number), "path": path}
            | {"type": "sentence_transformers.models.Dense"}
        )
    modules = [*modules[:2], *layers, modules[2] | {"idx": 4, "name": "4"}]
    write_json(folder / "modules.json", modules)
    ours = BitEmbedder.from_pretrained(folder, device="cpu")
    assert ours.rotation is None
    stock = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(ours.encode(sentences), stock.encode(sentences), atol=1e-5)


def test_what_is_refused(tiny_embedder, make_embedder, stretched, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"square float32 matrix, not torch.float32 \(3, 4\)"):
        OutputMap(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="NaN or infinite"):
        OutputMap(torch.full((4, 4), torch.inf))
    for x, y in ((torch.ones(9, 4), torch.ones(8, 4)), (torch.ones(0, 4), torch.ones(0, 4))):
        with pytest.raises(ValueError, match="fitted to embeddings of the same texts"):
            OutputMap.fit(x, y)
    with pytest.raises(ValueError, match="have 32 dimensions, the output map 8"):
        tiny_embedder.output_map = OutputMap(torch.eye(8))
    decoder = make_embedder("qwen3")
    decoder.convert()
    decoder.output_map = stretched
    with pytest.raises(ValueError, match="GGUF has no place for the map"):
        decoder.save_pretrained(tmp_path / "m.gguf", layout="gguf")
