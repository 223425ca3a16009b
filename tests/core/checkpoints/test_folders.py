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
from transformers import AutoModel

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears
from bitembed_core.embedding_table import quantize_tables, quantized_tables

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


@pytest.mark.parametrize("token_table", ["int8", "int4"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_table_of_few_bits_through_every_door(
    make_embedder, sentences, tmp_path, architecture, token_table
) -> None:
    embedder = make_embedder(architecture)
    embedder.convert("all", sentences)
    embedder.save_pretrained(tmp_path / "m", "packed", token_table=token_table)
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    vectors = again.encode(sentences)
    expected = make_embedder(architecture)  # the same rounding, done in memory
    expected.convert("all", sentences)
    quantize_tables(expected.model, token_table)
    assert (expected.encode(sentences) == vectors).all()
    theirs = AutoModel.from_pretrained(tmp_path / "m")
    batch = again.tokenize(sentences)
    with torch.no_grad():
        states = theirs(**batch).last_hidden_state
        assert torch.equal(states, again.model(**batch).last_hidden_state)
    again.save_pretrained(tmp_path / "n", "packed")  # what is stored in few bits stays so
    assert (BitEmbedder.from_pretrained(tmp_path / "n", device="cpu").encode(sentences) == vectors).all()
    assert (load_file(tmp_path / "n" / "model.safetensors").keys()) == load_file(
        tmp_path / "m" / "model.safetensors"
    ).keys()
    with pytest.raises(ValueError, match="the layout 'packed' only"):
        again.save_pretrained(tmp_path / "o", "release")


def test_a_packed_model_takes_a_smaller_table_but_no_finer_one(make_embedder, sentences, tmp_path) -> None:
    embedder = make_embedder("qwen3")
    embedder.convert("all", sentences)
    embedder.save_pretrained(tmp_path / "float16", "packed")
    for finer, coarser in (("float16", "int8"), ("int8", "int4")):
        again = BitEmbedder.from_pretrained(tmp_path / finer, device="cpu")
        again.save_pretrained(tmp_path / coarser, "packed", token_table=coarser)
        quantize_tables(again.model, coarser)
        smaller = BitEmbedder.from_pretrained(tmp_path / coarser, device="cpu")
        assert {table.precision for table in quantized_tables(smaller.model).values()} == {coarser}
        assert (smaller.encode(sentences) == again.encode(sentences)).all()
        assert (tmp_path / coarser / "model.safetensors").stat().st_size < (
            tmp_path / finer / "model.safetensors"
        ).stat().st_size
        with pytest.raises(ValueError, match=f"is stored as {coarser} and cannot become {finer} again"):
            smaller.save_pretrained(tmp_path / "wider", "packed", token_table=finer)
    assert not (tmp_path / "wider").exists()


def test_what_is_mapped_can_be_written_to_and_the_file_stays(make_embedder, sentences, tmp_path) -> None:
    embedder = make_embedder("qwen3")
    embedder.convert("all", sentences)
    embedder.save_pretrained(tmp_path / "m", "packed", token_table="int8")
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    embedder = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    before = embedder.encode(sentences)
    with torch.no_grad():
        for tensor in (*embedder.model.parameters(), *embedder.model.buffers()):
            tensor.zero_()
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == content
    assert (BitEmbedder.from_pretrained(tmp_path / "m", device="cpu").encode(sentences) == before).all()


def test_int8_tables_change_little(make_embedder, sentences) -> None:
    for architecture in ("bert", "qwen3"):
        embedder = make_embedder(architecture)
        embedder.convert("all", sentences)
        before = embedder.encode(sentences)
        quantize_tables(embedder.model, "int8")
        assert (embedder.encode(sentences) * before).sum(axis=1).min() >= 0.999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_trained_norms_and_tables_narrow_to_float16(make_embedder, sentences, tmp_path, architecture) -> None:
    embedder = make_embedder(architecture)
    embedder.convert("all", sentences)
    with torch.no_grad():
        for name, parameter in embedder.model.named_parameters():
            if "norm" in name.lower():
                parameter.mul_(1 + 1e-5)  # no float16 holds it: a training step moved it
    embedder.save_pretrained(tmp_path / "m", "packed")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    floats = {
        name: tensor for name, tensor in stored.items() if not name.endswith(("weight_scale", "_proj.weight"))
    }
    assert {tensor.dtype for tensor in floats.values()} <= {torch.float16, torch.uint8}
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu").encode(sentences)
    assert (
        abs(again - embedder.encode(sentences)).max()
        < {"bert": 1e-3, "qwen3": 0.01, "gemma3": 0.02}[architecture]
    )


def test_transformers_refuses_what_we_refuse(tiny_embedder, tmp_path) -> None:
    tiny_embedder.convert()
    tiny_embedder.save_pretrained(tmp_path / "m", "packed")
    weights = tmp_path / "m" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 4
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="does not match the checksum"):
        AutoModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_release_folders_have_the_published_form(make_embedder, sentences, tmp_path, architecture) -> None:
    embedder = make_embedder(architecture)
    with torch.no_grad():
        for parameter in embedder.model.parameters():  # as a published backbone is stored
            parameter.copy_(parameter.bfloat16())
    embedder.convert("all", sentences)
    with torch.no_grad():
        for _, module in bit_linears(embedder.model):
            module.norm.weight.copy_(module.norm.weight.bfloat16())
            module.weight.add_(torch.randn_like(module.weight) * 1e-4)  # trained in float32
    before = embedder.encode(sentences)
    embedder.save_pretrained(tmp_path / "m", "release")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert "layers.1.self_attn.q_proj.norm.weight" in tensors
    assert not [name for name in tensors if name.startswith("lm_head")]
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["model_type"] == {"qwen3": "qwen3", "gemma3": "gemma3_text"}[architecture]
    assert "quantization_config" not in config
    rope = config["rope_parameters"]
    assert config["rope_theta"] == rope.get("full_attention", rope)["rope_theta"]  # where the converter looks
    pooling = json.loads((tmp_path / "m" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_lasttoken"] is True
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert (again.encode(sentences) == before).all()


def test_a_learned_scale_goes_into_the_release(make_embedder, sentences, tmp_path) -> None:
    embedder = make_embedder("qwen3")
    embedder.convert("all", sentences)
    embedder.freeze()
    for _, module in bit_linears(embedder.model):
        module.weight_scale.mul_(1.37)
    before = embedder.encode(sentences)
    embedder.save_pretrained(tmp_path / "m", "release")
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    for (_, ours), (_, theirs) in zip(bit_linears(embedder.model), bit_linears(again.model), strict=True):
        assert torch.equal(ours.ternary()[0], theirs.ternary()[0])
        torch.testing.assert_close(ours.ternary()[1], theirs.ternary()[1], rtol=1e-6, atol=0)
    np.testing.assert_allclose(again.encode(sentences), before, atol=1e-3)


def test_no_path_of_this_machine_is_written(tiny_embedder, tmp_path) -> None:
    tiny_embedder.save_pretrained(tmp_path / "m")
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    again.convert()
    again.save_pretrained(tmp_path / "n", "packed")
    for path in (tmp_path / "n").rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name


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
    modules.append({"idx": 3, "name": "3", "path": "3_LSTM", "type": "sentence_transformers.models.LSTM"})
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="lists a LSTM module"):
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
    with pytest.raises(ValueError, match="is for layout 'packed'"):
        tiny_embedder.save_pretrained(tmp_path / "new", "release", token_table="int8")
    with pytest.raises(ValueError, match="is for layout 'gguf'"):
        tiny_embedder.save_pretrained(tmp_path / "new", "packed", gguf_type="i2_s")
