"""Model folders: exact round trips, sentence-transformers beside us, loud failures, nothing half-written."""

import errno
import json
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears

ARCHITECTURES = ["bert", "qwen3", "gemma3"]


@pytest.mark.parametrize("layout", ["release", "latent", "packed"])
@pytest.mark.parametrize("sites", ["all", "output"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip_is_exact(make_embedder, sentences, tmp_path, architecture, sites, layout) -> None:
    embedder = make_embedder(architecture)
    embedder.convert(sites, sentences)
    before = embedder.encode(sentences)
    embedder.save_pretrained(tmp_path / "m", layout)
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert (again.encode(sentences) == before).all()
    assert again.pooling == embedder.pooling
    assert again.max_length == embedder.max_length
    lives = {module.life for _, module in bit_linears(again.model)}
    assert lives == ({"frozen"} if layout == "packed" else {"latent"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_floating_point_folder_is_a_sentence_transformers_model(
    make_embedder, sentences, tmp_path, architecture
) -> None:
    embedder = make_embedder(architecture)
    embedder.settings.prompts = {"query": "ask: "}
    embedder.save_pretrained(tmp_path / "m")
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(theirs.encode(sentences), embedder.encode(sentences), atol=1e-5)
    np.testing.assert_allclose(
        theirs.encode(sentences, prompt_name="query"), embedder.encode_query(sentences), atol=1e-5
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_folder_loads_in_sentence_transformers_with_our_quantizer(
    make_embedder, sentences, tmp_path, architecture
) -> None:
    embedder = make_embedder(architecture)
    embedder.convert("all", sentences)
    embedder.save_pretrained(tmp_path / "m", "packed")
    theirs = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert len(list(bit_linears(theirs))) == len(list(bit_linears(embedder.model)))
    one_by_one = np.stack([theirs.encode(text) for text in sentences])
    similarity = (one_by_one * embedder.encode(sentences)).sum(axis=1)
    assert similarity.min() > 0.999


@pytest.mark.parametrize("layout", ["latent", "packed"])
def test_without_our_code_loading_fails(tiny_embedder, tmp_path, layout) -> None:
    tiny_embedder.convert()
    tiny_embedder.save_pretrained(tmp_path / "m", layout)
    program = f"from transformers import AutoModel; AutoModel.from_pretrained({str(tmp_path / 'm')!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_prompts_and_float_weights_survive(tiny_embedder, sentences, tmp_path) -> None:
    tiny_embedder.settings.prompts = {"query": "ask: ", "document": "say: "}
    tiny_embedder.max_length = 64
    tiny_embedder.save_pretrained(tmp_path / "m")
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert again.prompts == tiny_embedder.prompts
    assert again.max_length == 64
    assert again.kernel == "float"
    assert (again.encode(sentences) == tiny_embedder.encode(sentences)).all()


def test_pooling_is_read_and_not_assumed_silently(tiny_embedder, tmp_path, caplog) -> None:
    folder = tmp_path / "m"
    tiny_embedder.save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "cls"}))
    assert BitEmbedder.from_pretrained(folder, device="cpu").pooling == "cls"
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="exactly one of the pooling modes"):
        BitEmbedder.from_pretrained(folder, device="cpu")
    shutil.rmtree(folder / "1_Pooling")
    (folder / "modules.json").unlink()
    assert BitEmbedder.from_pretrained(folder, device="cpu").pooling == "mean"
    assert "names no pooling" in caplog.text


def test_an_unknown_module_is_refused(tiny_embedder, tmp_path) -> None:
    tiny_embedder.save_pretrained(tmp_path / "m")
    modules = json.loads((tmp_path / "m" / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="lists a Dense module"):
        BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")


def test_damaged_and_foreign_files(tiny_embedder, tmp_path) -> None:
    tiny_embedder.convert()
    folder = tmp_path / "m"
    tiny_embedder.save_pretrained(folder, "packed")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(n for n, t in tensors.items() if t.dtype == torch.uint8)
    save_file({n: t for n, t in tensors.items() if n != name}, weights)
    with pytest.raises(ValueError, match="do not fit"):
        BitEmbedder.from_pretrained(folder, device="cpu")
    save_file({**tensors, name: tensors[name] | 3}, weights)
    with pytest.raises(ValueError, match="damaged"):
        BitEmbedder.from_pretrained(folder, device="cpu")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        BitEmbedder.from_pretrained(folder, device="cpu")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = 99
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="upgrade bitembed"):
        BitEmbedder.from_pretrained(folder, device="cpu")


def test_saving_never_destroys(tiny_embedder, tmp_path, monkeypatch) -> None:
    tiny_embedder.convert()
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not overwritten"):
        tiny_embedder.save_pretrained(tmp_path / "papers", "packed")
    with pytest.raises(ValueError, match="no layout 'onnx'"):
        tiny_embedder.save_pretrained(tmp_path / "m", "onnx")

    tiny_embedder.save_pretrained(tmp_path / "m", "packed")
    before = sorted(p.name for p in (tmp_path / "m").iterdir())

    def disk_full(*_args, **_options) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bitembed_core.checkpoints.tensor_files.save_file", disk_full)
    for target in ("m", "new"):
        with pytest.raises(OSError, match="No space left"):
            tiny_embedder.save_pretrained(tmp_path / target, "packed")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "papers"]
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == before

    limits = resource.getrlimit(
        resource.RLIMIT_FSIZE
    )  # a file cannot grow past it: as near to a full disk as it gets
    monkeypatch.undo()
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written"):
            tiny_embedder.save_pretrained(tmp_path / "new", "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "papers"]

    tiny_embedder.freeze()
    with pytest.raises(ValueError, match="no longer has"):
        tiny_embedder.save_pretrained(tmp_path / "new", "latent")
