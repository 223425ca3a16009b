"""Damaged and hostile files: a clear error, never a crash, absurd memory, or another embedding without a word."""

import hashlib
import json
import os
import pickle
import re
import resource
import shutil
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.gguf import GGUFFile
from bitembed_core.checkpoints.quantization import FORMAT_VERSION

MEMORY_LIMIT = 1 << 30  # bytes that a load of a file of some hundred kilobytes may take beyond what is there


@pytest.fixture(scope="module")
def saved(make_published, texts, tmp_path_factory):
    """A packed folder and a GGUF file of the same model, and its embeddings."""
    folder = tmp_path_factory.mktemp("saved")
    embedder = make_published("qwen3")
    embedder.save_pretrained(folder / "packed", "packed", token_table="int4")
    embedder.save_pretrained(folder / "m.gguf", "gguf")
    expected = {
        name: BitEmbedder.from_pretrained(folder / name, device="cpu").encode(texts)
        for name in ("packed", "m.gguf")
    }
    return folder, expected


def edits(size: int):
    """What happens to a file: bytes overwritten, a piece cut out, the end cut off, or bytes appended."""
    place = st.integers(0, size - 1)
    early = st.integers(0, min(size - 1, 4000))  # headers are where structure is
    return st.one_of(
        st.tuples(st.just("write"), st.one_of(place, early), st.binary(min_size=1, max_size=16)),
        st.tuples(
            st.just("number"), early, st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1])
        ),
        st.tuples(st.just("cut"), place, st.integers(1, 64)),
        st.tuples(st.just("truncate"), place, st.none()),
        st.tuples(st.just("append"), st.none(), st.binary(min_size=1, max_size=64)),
    )


def edited(content: bytes, edit) -> bytes:
    kind, place, value = edit
    if kind == "write":
        return content[:place] + value + content[place + len(value) :]
    if kind == "number":
        return content[:place] + struct.pack("<Q", value) + content[place + 8 :]
    if kind == "cut":
        return content[:place] + content[place + value :]
    return content[:place] if kind == "truncate" else content + value


def outcome(source, texts):
    """Embeddings by the model in `source`, or what loading it was refused with.

    Asking for more than MEMORY_LIMIT is a MemoryError (or torch's RuntimeError), which is neither.
    """
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_LIMIT, before[1]))
    try:
        return BitEmbedder.from_pretrained(source, device="cpu").encode(texts)
    except (ValueError, OSError) as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


FUZZ = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(data=st.data())
def test_fuzzed_safetensors(saved, texts, tmp_path_factory, data) -> None:
    folder, expected = saved
    content = (folder / "packed" / "model.safetensors").read_bytes()
    bad = tmp_path_factory.mktemp("fuzz") / "m"
    shutil.copytree(folder / "packed", bad)
    spoiled = edited(content, data.draw(edits(len(content))))
    (bad / "model.safetensors").write_bytes(spoiled)
    found = outcome(bad, texts)
    assert isinstance(found, str) or spoiled == content or (found == expected["packed"]).all()
    shutil.rmtree(bad)


@FUZZ
@given(data=st.data())
def test_fuzzed_gguf(saved, texts, tmp_path_factory, data) -> None:
    folder, expected = saved
    content = (folder / "m.gguf").read_bytes()
    bad = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    spoiled = edited(content, data.draw(edits(len(content))))
    bad.write_bytes(spoiled)
    found = outcome(bad, texts)
    assert isinstance(found, str) or spoiled == content or (found == expected["m.gguf"]).all()
    bad.unlink()


@FUZZ
@given(data=st.data())
def test_fuzzed_gguf_without_a_checksum_never_crashes(saved, texts, tmp_path_factory, data) -> None:
    folder, _ = saved
    content = (folder / "m.gguf").read_bytes().replace(b"bitembed.sha256", b"bitembed.sha257")
    bad = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    bad.write_bytes(edited(content, data.draw(edits(len(content)))))
    found = outcome(bad, texts)
    assert isinstance(found, str) or np.isfinite(found).all()
    bad.unlink()


@FUZZ
@given(data=st.data())
def test_fuzzed_containers(tmp_path_factory, data) -> None:
    """Files that are nothing but a header of random values."""
    bad = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    counts = st.integers(1, 2**64 - 1)
    head = b"GGUF" + struct.pack("<IQQ", 3, data.draw(counts), data.draw(counts))
    bad.write_bytes(head + data.draw(st.binary(max_size=200)))
    with pytest.raises(ValueError, match=r"m\.gguf"):
        GGUFFile(bad)


def packed(tmp_path, make_embedder, token_table="float16"):
    embedder = make_embedder("qwen3")
    embedder.convert()
    embedder.save_pretrained(tmp_path / "m", "packed", token_table=token_table)
    return tmp_path / "m"


def refused(folder, message) -> None:
    with pytest.raises(ValueError, match=message):
        BitEmbedder.from_pretrained(folder, device="cpu")


def rewritten(folder, change) -> None:
    """Change the tensors and write them as somebody would who knows the format, checksum and all."""
    from bitembed_core.checkpoints.tensor_files import write_tensors

    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    try:
        write_tensors(folder / "model.safetensors", tensors, {})
    except ValueError:  # it would not write what is not finite
        save_file(tensors, folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["version"] = 1
        (folder / "config.json").write_text(json.dumps(config))


def test_the_checksum_of_older_files_still_counts(make_embedder, tmp_path, monkeypatch) -> None:
    from bitembed_core.checkpoints import tensor_files

    monkeypatch.setattr(tensor_files, "DIGEST_KEY", "sha256")  # as version 2 wrote it
    folder = packed(tmp_path, make_embedder)
    weights = folder / "model.safetensors"
    monkeypatch.undo()
    content = weights.read_bytes()
    zeroed = re.sub(b'"sha256":"([0-9a-f]{64})"', b'"sha256":"' + b"0" * 64 + b'"', content, count=1)
    assert hashlib.sha256(zeroed).hexdigest().encode() in content
    BitEmbedder.from_pretrained(folder)
    flipped = bytearray(content)
    flipped[-5] ^= 1
    weights.write_bytes(flipped)
    refused(folder, "does not match the checksum")


def test_truncated_wrong_shape_missing_norm_and_checksum(make_embedder, tmp_path) -> None:
    folder = packed(tmp_path, make_embedder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    refused(folder, "damaged or cut short")
    flipped = bytearray(content)
    flipped[-5] ^= 1
    weights.write_bytes(flipped)
    refused(folder, "does not match the checksum")
    weights.write_bytes(content)
    name = "layers.1.mlp.up_proj"

    def wrong_shape(tensors):
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"][:-1]

    rewritten(folder, wrong_shape)
    refused(folder, r"1 of the wrong shape: layers\.1\.mlp\.up_proj\.weight is \(47, 8\), not \(48, 8\)")
    weights.write_bytes(content)
    rewritten(folder, lambda tensors: tensors.pop(f"{name}.norm.weight"))
    refused(folder, r"1 missing: layers\.1\.mlp\.up_proj\.norm\.weight")
    weights.write_bytes(content)
    save_file(load_file(weights), weights)
    refused(folder, "no checksum")


def test_codes_and_scales_outside_their_alphabet(make_embedder, tmp_path) -> None:
    name = "layers.1.mlp.up_proj"
    cases = {
        "code": (lambda t: t[f"{name}.weight"].bitwise_or_(3), "field 3", "int8"),
        "int8": (lambda t: t["embed_tokens.table"].fill_(-128), "no int8 code", "int8"),
        "int4": (lambda t: t["embed_tokens.table"].fill_(0), "no int4 code", "int4"),
        "nan": (
            lambda t: t[f"{name}.weight_scale"].fill_(float("nan")),
            "NaN, infinite or negative",
            "float16",
        ),
        "negative": (lambda t: t[f"{name}.weight_scale"].fill_(-1.0), "NaN, infinite or negative", "float16"),
        "group": (
            lambda t: t["embed_tokens.scale"][3].fill_(float("inf")),
            "NaN, infinite or negative",
            "int8",
        ),
        "norm": (
            lambda t: t[f"{name}.norm.weight"].fill_(float("nan")),
            "NaN, infinite or negative",
            "float16",
        ),
    }
    for case, (change, message, token_table) in cases.items():
        (tmp_path / case).mkdir()
        folder = packed(tmp_path / case, make_embedder, token_table)
        rewritten(folder, change)
        refused(folder, message)


def test_a_nan_in_a_table_is_seen_when_a_text_meets_it(make_embedder, tmp_path, sentences) -> None:
    folder = packed(tmp_path, make_embedder)
    rewritten(folder, lambda tensors: tensors["embed_tokens.table"].fill_(float("nan")))
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        BitEmbedder.from_pretrained(folder, device="cpu").encode(sentences)


def test_versions_and_settings_that_are_not_known(make_embedder, tmp_path) -> None:
    folder = packed(tmp_path, make_embedder)
    original = json.loads((folder / "config.json").read_text())
    for key, value, message in (
        ("version", FORMAT_VERSION + 1, "upgrade bitembed"),
        ("version", "2", "upgrade bitembed"),
        ("layout", "zipped", "upgrade bitembed"),
        ("sites", "some", "damaged"),
        ("token_table", "int3", "damaged"),
    ):
        config = {**original, "quantization_config": {**original["quantization_config"], key: value}}
        (folder / "config.json").write_text(json.dumps(config))
        refused(folder, message)


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("pickle-was-run",))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "latent.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_and_not_run(make_embedder, tmp_path, monkeypatch, name, zipped) -> None:
    monkeypatch.chdir(tmp_path)
    embedder = make_embedder("qwen3")
    if name == "latent.safetensors":
        embedder.convert()
    embedder.save_pretrained(tmp_path / "m", "latent" if name == "latent.safetensors" else "release")
    for weights in (tmp_path / "m").glob("*.safetensors"):
        weights.unlink()
    if zipped:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "m" / name)
    else:
        (tmp_path / "m" / name).write_bytes(pickle.dumps(Payload(), protocol=4))
    refused(tmp_path / "m", "is a pickle, which can run any code")
    assert not (tmp_path / "pickle-was-run").exists()


def test_release_folders_from_elsewhere(make_embedder, tmp_path, sentences) -> None:
    embedder = make_embedder("gemma3")
    embedder.convert()
    embedder.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    save_file(tensors, weights)  # as another program writes it: without our checksum
    assert (
        BitEmbedder.from_pretrained(tmp_path / "m", device="cpu").encode(sentences)
        == embedder.encode(sentences)
    ).all()
    del tensors["layers.0.self_attn.q_proj.norm.weight"]
    save_file(tensors, weights)
    refused(tmp_path / "m", r"1 missing: layers\.0\.self_attn\.q_proj\.norm\.weight")
    tensors["layers.0.self_attn.q_proj.norm.weight"] = torch.full((32,), float("nan"))
    save_file(tensors, weights)
    refused(tmp_path / "m", "NaN or infinite")


def test_a_folder_without_a_tokenizer(make_embedder, tmp_path) -> None:
    folder = packed(tmp_path, make_embedder)
    (folder / "tokenizer.json").unlink()
    refused(folder, "has no tokenizer")
