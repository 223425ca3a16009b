"""Centres that a user or a recipe gives a model."""

import json

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation
from workbench import cli
from workbench.centring import take_out_mean

TEXTS = [f"text number {i} about {['cats', 'dogs', 'ships', 'stars'][i % 4]}" for i in range(40)]


def test_of_the_model_itself_or_of_its_teacher(tiny_embedder, make_embedder) -> None:
    teacher = make_embedder("qwen3")
    own, teachers = (torch.from_numpy(model.encode(TEXTS)) for model in (tiny_embedder, teacher))
    tiny_embedder.rotation = Rotation.random(32)
    for _ in range(2):  # not of vectors that have been centred or turned
        take_out_mean(tiny_embedder, TEXTS)
        assert torch.equal(tiny_embedder.centre.vector, Centre.of(own).vector)
    assert tiny_embedder.rotation is not None
    teacher.centre = its_own = Centre(torch.full((32,), 0.01))
    take_out_mean(tiny_embedder, TEXTS, share=0.5, measured_on=teacher)
    assert torch.equal(tiny_embedder.centre.vector, Centre.of(teachers, 0.5).vector)
    assert teacher.centre is its_own
    before = tiny_embedder.centre
    with pytest.raises(ValueError, match="no texts to encode"):
        take_out_mean(tiny_embedder, [])
    assert tiny_embedder.centre is before
    assert tiny_embedder.provenance.stages[-1] == {"stage": "centring", "texts": 40, "share": 0.5}


def test_export_with_a_centre(tiny_model_folder, tmp_path, sentences, capsys) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    plain = BitEmbedder.from_pretrained(tiny_model_folder, device="cpu")
    argv = ["export", "--model", str(tiny_model_folder), "--layout", "release", "--out", str(tmp_path / "c")]
    assert cli.main([*argv, "--centre", str(texts), "--rotation", "random"]) == 0
    centred = BitEmbedder.from_pretrained(tmp_path / "c", device="cpu")
    centre = Centre.of(torch.from_numpy(plain.encode(TEXTS)))
    np.testing.assert_allclose(centred.centre.vector.numpy(), centre.vector.numpy(), atol=1e-6)
    expected = Rotation.random(32)(centre(torch.from_numpy(plain.encode(sentences))))
    np.testing.assert_allclose(centred.encode(sentences), expected.numpy(), atol=1e-5)
    argv[-1] = str(tmp_path / "nothing")
    assert cli.main([*argv, "--centre", str(tmp_path / "missing.jsonl")]) == 2
    assert "missing.jsonl" in capsys.readouterr().err
