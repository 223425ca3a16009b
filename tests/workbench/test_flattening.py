"""Flattened spectra that a user gives a model."""

import json

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation
from workbench import cli
from workbench.flattening import flatten_spectrum

TEXTS = [f"text number {i} about {['cats', 'dogs', 'ships', 'stars'][i % 4]}" for i in range(40)]


def test_after_a_map_and_before_a_rotation(tiny_embedder, sentences) -> None:
    tiny_embedder.output_map = OutputMap(torch.eye(32) + 0.1 * torch.ones(32, 32))
    vectors, before = (torch.from_numpy(tiny_embedder.encode(texts)) for texts in (TEXTS, sentences))
    tiny_embedder.rotation = rotation = Rotation.random(32)
    flatten_spectrum(tiny_embedder, TEXTS, 0.5)
    assert tiny_embedder.rotation is rotation
    expected = rotation(OutputMap.flattening(vectors, 0.5)(before))
    np.testing.assert_allclose(tiny_embedder.encode(sentences), expected.numpy(), atol=1e-5)
    assert tiny_embedder.provenance.stages[-1] == {"stage": "flattening", "texts": 40, "power": 0.5}


def test_what_cannot_be_flattened(tiny_embedder) -> None:
    with pytest.raises(ValueError, match="at least as many texts, not 31"):
        flatten_spectrum(tiny_embedder, TEXTS[:31])
    with pytest.raises(ValueError, match="power of 0 to 1"):
        flatten_spectrum(tiny_embedder, TEXTS, 2.0)
    tiny_embedder.centre = Centre(torch.full((32,), 0.01))
    with pytest.raises(ValueError, match="flatten its vectors first"):
        flatten_spectrum(tiny_embedder, TEXTS)
    assert tiny_embedder.output_map is None


def test_export(tiny_model_folder, tmp_path, sentences) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    plain = BitEmbedder.from_pretrained(tiny_model_folder, device="cpu")
    argv = ["export", "--model", str(tiny_model_folder), "--layout", "release", "--out", str(tmp_path / "f")]
    options = ["--flatten", str(texts), "--rotation", "principal", "--rotation-texts", str(texts)]
    assert cli.main([*argv, *options]) == 0
    flat = BitEmbedder.from_pretrained(tmp_path / "f", device="cpu")
    flattening = OutputMap.flattening(torch.from_numpy(plain.encode(TEXTS)))
    cosines, expected = flat.encode(sentences), flattening(torch.from_numpy(plain.encode(sentences))).numpy()
    np.testing.assert_allclose(cosines @ cosines.T, expected @ expected.T, atol=1e-4)
    sizes = np.square(flat.encode(TEXTS)).mean(axis=0)
    assert (np.diff(sizes) <= 1e-6).all()  # the largest components come first
