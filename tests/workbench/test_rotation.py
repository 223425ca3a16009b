"""Rotations that a user or a recipe gives a model."""

import json

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.storage.rotation import Rotation
from workbench import cli
from workbench.rotation import rotate

TEXTS = [f"text number {i} about {['cats', 'dogs', 'ships', 'stars'][i % 4]}" for i in range(40)]


def test_fitted_to_the_model_itself_or_to_its_teacher(tiny_embedder, make_embedder) -> None:
    teacher = make_embedder("qwen3")
    plain = torch.from_numpy(tiny_embedder.encode(TEXTS))
    rotate(tiny_embedder, "random")
    assert torch.equal(tiny_embedder.rotation.matrix, Rotation.random(32).matrix)
    rotate(tiny_embedder, "fitted", TEXTS)  # not to the turned vectors
    assert torch.equal(tiny_embedder.rotation.matrix, Rotation.fit(plain).matrix)
    rotate(tiny_embedder, "fitted", TEXTS, fitted_to=teacher)
    expected = Rotation.fit(torch.from_numpy(teacher.encode(TEXTS)))
    assert torch.equal(tiny_embedder.rotation.matrix, expected.matrix)
    assert [stage["kind"] for stage in tiny_embedder.provenance.stages] == ["random", "fitted", "fitted"]
    rotate(tiny_embedder, "none")
    assert tiny_embedder.rotation is None


def test_too_few_texts(tiny_embedder) -> None:
    with pytest.raises(ValueError, match="at least as many texts, not 3"):
        rotate(tiny_embedder, "fitted", TEXTS[:3])


def test_export_with_a_rotation(tiny_model_folder, tmp_path, sentences) -> None:
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    plain = BitEmbedder.from_pretrained(tiny_model_folder, device="cpu").encode(sentences)
    source = tiny_model_folder
    for kind in ("random", "fitted", "principal", "none"):
        out = tmp_path / kind
        argv = [
            "export",
            "--model",
            str(source),
            "--layout",
            "release",
            "--out",
            str(out),
            "--rotation",
            kind,
        ]
        if kind in ("fitted", "principal"):
            argv += ["--rotation-texts", str(tmp_path / "texts.jsonl")]
        assert cli.main(argv) == 0
        x = BitEmbedder.from_pretrained(out, device="cpu").encode(sentences)
        assert np.allclose(x, plain, atol=1e-5) == (kind == "none")
        np.testing.assert_allclose(x @ x.T, plain @ plain.T, atol=1e-5)
        source = out


def test_export_needs_texts_to_fit_to(tiny_model_folder, tmp_path, capsys) -> None:
    argv = ["export", "--model", str(tiny_model_folder), "--layout", "release", "--out", str(tmp_path / "o")]
    assert cli.main([*argv, "--rotation", "fitted"]) == 2
    assert "at least as many texts, not 0" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
