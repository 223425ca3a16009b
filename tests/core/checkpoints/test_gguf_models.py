"""Models to GGUF and back: embeddings, tokenizer, metadata, and what is refused."""

import logging

import numpy as np
import pytest
from transformers import AutoModel

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.gguf import GGUFFile
from bitembed_core.checkpoints.gguf.container import F16, F32, I2_S, TensorToWrite, write_gguf
from bitembed_core.checkpoints.sentence_files import SentenceSettings
from bitembed_core.conversion import bit_linears


@pytest.mark.parametrize("sites", ["all", "output", "none"])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_there_and_back(make_published, texts, architecture, sites, tmp_path, caplog) -> None:
    embedder = make_published(architecture, sites)
    embedder.settings.prompts = {"query": "ask "}
    embedder.max_length = 64
    before = embedder.encode(texts)
    with caplog.at_level(logging.WARNING):
        embedder.save_pretrained(tmp_path / "m.gguf", "gguf")
    assert not caplog.text
    again = BitEmbedder.from_pretrained(tmp_path / "m.gguf", device="cpu")
    assert again.tokenizer(texts)["input_ids"] == embedder.tokenizer(texts)["input_ids"]
    assert (again.encode(texts) == before).all()
    assert (again.pooling, again.max_length, again.prompts) == ("last", 64, {"query": "ask "})
    assert again.provenance.stages == embedder.provenance.stages
    assert {module.life for _, module in bit_linears(again.model)} == {"frozen"}
    assert (tmp_path / "m.md").read_text().startswith("---")
    again.save_pretrained(tmp_path / "folder", "gguf")
    (file,) = (tmp_path / "folder").glob("*.gguf")
    assert (BitEmbedder.from_pretrained(file, device="cpu").encode(texts) == before).all()
    assert (BitEmbedder.from_pretrained(tmp_path / "folder", device="cpu").encode(texts) == before).all()


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_keys_and_tensors_are_the_published_ones(make_published, architecture, tmp_path) -> None:
    embedder = make_published(architecture)
    embedder.save_pretrained(tmp_path / "m.gguf", "gguf")
    file = GGUFFile(tmp_path / "m.gguf")
    expected = {
        "general.architecture": architecture,
        "general.file_type": 40,
        f"{architecture}.block_count": 7,
        f"{architecture}.embedding_length": 128,
        f"{architecture}.feed_forward_length": 256,
        f"{architecture}.attention.head_count": 2,
        f"{architecture}.attention.head_count_kv": 1,
        f"{architecture}.attention.key_length": 128,
        f"{architecture}.attention.value_length": 128,
        f"{architecture}.rope.dimension_count": 128,
        f"{architecture}.pooling_type": 3,
        f"{architecture}.vocab_size": embedder.model.config.vocab_size,
        f"{architecture}.context_length": embedder.model.config.max_position_embeddings,
        "tokenizer.ggml.model": {"qwen3": "gpt2", "gemma3": "llama"}[architecture],
        "tokenizer.ggml.pre": {"qwen3": "qwen2", "gemma3": "default"}[architecture],
        "tokenizer.ggml.eos_token_id": embedder.tokenizer.eos_token_id,
        "tokenizer.ggml.add_eos_token": True,
    }
    assert {key: file.metadata.get(key) for key in expected} == expected
    assert file.metadata[f"{architecture}.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == embedder.model.config.vocab_size
    assert file.metadata["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    layer = {
        name.removeprefix("blk.3."): entry
        for name, entry in file.tensors.items()
        if name.startswith("blk.3.")
    }
    assert layer["attn_q.weight"].type == I2_S
    assert layer["ffn_down.weight"].shape == (128, 256)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        assert layer[f"{name}_norm_in.weight"].type == F32
    own = "layers.3.post_attention_layernorm.weight"
    theirs = {"qwen3": "ffn_norm", "gemma3": "post_attention_norm"}[architecture]
    stored = file.data(f"blk.3.{theirs}.weight").view("<f4")
    offset = 1 if architecture == "gemma3" else 0
    np.testing.assert_array_equal(stored, embedder.model.state_dict()[own].numpy() + np.float32(offset))
    gain = embedder.model.get_submodule("layers.3.mlp.down_proj").norm.weight.detach().numpy()
    np.testing.assert_array_equal(file.data("blk.3.ffn_down_norm_in.weight").view("<f4"), gain)
    assert file.tensors["token_embd.weight"].type == F16
    if architecture == "gemma3":
        assert file.metadata["gemma3.attention.query_pre_attn_scalar"] == 128
        assert file.metadata["gemma3.attention.sliding_window"] == 8
    else:
        assert file.metadata["qwen3.rope.freq_base"] == embedder.model.config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("name", ["tq2_0", "tq1_0"])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_llama_cpp_types_need_a_model_without_projection_norms(
    make_published, texts, architecture, name, tmp_path
) -> None:
    embedder = make_published(architecture, "none", hidden=256)
    for _, module in bit_linears(embedder.model):  # a scale that float16 holds, so that nothing narrows
        module.freeze()
        module.weight_scale = module.weight_scale.half().float()
    before = embedder.encode(texts)
    embedder.save_pretrained(tmp_path / "m.gguf", "gguf", gguf_type=name)
    assert (BitEmbedder.from_pretrained(tmp_path / "m.gguf", device="cpu").encode(texts) == before).all()
    with pytest.raises(ValueError, match="no norms inside the projections, and this model has 49"):
        make_published(architecture, "all", hidden=256).save_pretrained(
            tmp_path / "n.gguf", "gguf", gguf_type=name
        )
    with pytest.raises(ValueError, match=r"rows by the 256 weights, and this model has rows of \[128\]"):
        make_published(architecture, "none").save_pretrained(tmp_path / "n.gguf", "gguf", gguf_type=name)
    assert not (tmp_path / "n.gguf").exists()


def test_a_tokenizer_that_no_runtime_knows_is_kept_whole(make_embedder, sentences, tmp_path, caplog) -> None:
    embedder = make_embedder("qwen3")
    embedder.convert("all", sentences)
    embedder.save_pretrained(tmp_path / "m.gguf", "gguf")
    assert "no runtime knows a tokenizer like this one" in caplog.text
    assert "cannot run rows of [32, 48, 64]" in caplog.text
    again = BitEmbedder.from_pretrained(tmp_path / "m.gguf", device="cpu")
    assert (again.encode(sentences) == embedder.encode(sentences)).all()


def test_what_cannot_be_written(make_embedder, tmp_path) -> None:
    bert = make_embedder("bert")
    bert.convert()
    with pytest.raises(ValueError, match="written for qwen3 and gemma3_text, not for bert"):
        bert.save_pretrained(tmp_path / "m.gguf", "gguf")
    qwen3 = make_embedder("qwen3")
    with pytest.raises(ValueError, match="in floating point, for which GGUF type i2_s is not meant"):
        qwen3.save_pretrained(tmp_path / "m.gguf", "gguf", gguf_type="i2_s")
    (tmp_path / "notes.gguf").write_text("not a model")
    with pytest.raises(ValueError, match="is not overwritten"):
        qwen3.save_pretrained(tmp_path / "notes.gguf", "gguf")
    assert (tmp_path / "notes.gguf").read_text() == "not a model"
    (tmp_path / "thesis.md").write_text("years of work")
    with pytest.raises(ValueError, match="where the model card belongs"):
        qwen3.save_pretrained(tmp_path / "thesis.gguf", "gguf")
    qwen3.save_pretrained(tmp_path / "models", "gguf")
    qwen3.save_pretrained(tmp_path / "models", "gguf")  # a folder that we wrote is replaced
    (tmp_path / "models" / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is not overwritten"):  # one that holds more is not ours
        qwen3.save_pretrained(tmp_path / "models", "gguf")
    assert (tmp_path / "models" / "other.gguf").exists()


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_floating_point_models(make_published, texts, architecture, tmp_path) -> None:
    embedder = make_published(architecture)
    plain = AutoModel.from_config(embedder.model.config).eval()
    floating = BitEmbedder(plain, embedder.tokenizer, SentenceSettings("mean", 64), device="cpu")
    floating.save_pretrained(tmp_path / "m.gguf", "gguf")
    again = BitEmbedder.from_pretrained(tmp_path / "m.gguf", device="cpu")
    assert again.pooling == "mean"
    assert again.kernel == "float"
    np.testing.assert_allclose(again.encode(texts), floating.encode(texts), atol=1e-3)  # weights as float16
    again.convert("all", texts)  # it is a backbone like any other


def damaged(make_published, tmp_path, change) -> None:
    """Load a valid I2_S file whose metadata and tensors `change` was let at, without a checksum."""
    make_published("qwen3").save_pretrained(tmp_path / "m.gguf", "gguf")
    file = GGUFFile(tmp_path / "m.gguf")
    metadata = {key: value for key, value in file.metadata.items() if key != "bitembed.sha256"}
    tensors = {
        name: TensorToWrite(name, entry.shape, entry.type, np.array(file.data(name)))
        for name, entry in file.tensors.items()
    }
    change(metadata, tensors)
    write_gguf(tmp_path / "bad.gguf", metadata, tensors.values())
    BitEmbedder.from_pretrained(tmp_path / "bad.gguf", device="cpu").encode("text")


def test_contradictory_files_are_refused(make_published, tmp_path) -> None:
    name = "blk.3.attn_q.weight"

    def without_norm(_, tensors):
        del tensors["blk.3.attn_q_norm_in.weight"]

    with pytest.raises(ValueError, match=r"lacks the tensor blk\.3\.attn_q_norm_in"):
        damaged(make_published, tmp_path, without_norm)

    def wrong_shape(_, tensors):
        tensors[name] = tensors[name]._replace(shape=(128, 256))

    with pytest.raises(ValueError, match=r"is \(128, 256\), not \(256, 128\)"):
        damaged(make_published, tmp_path, wrong_shape)

    def bad_code(_, tensors):
        tensors[name].data[5] |= 3

    with pytest.raises(ValueError, match="no ternary code"):
        damaged(make_published, tmp_path, bad_code)

    def nan_scale(_, tensors):
        tensors[name].data[-32:-28] = np.array([np.nan], dtype="<f4").view(np.uint8)

    with pytest.raises(ValueError, match="not a positive number"):
        damaged(make_published, tmp_path, nan_scale)

    def absurd(metadata, _):
        metadata["qwen3.feed_forward_length"] = 2**31

    with pytest.raises(ValueError, match="by the metadata the tensor"):
        damaged(make_published, tmp_path, absurd)

    def foreign(metadata, _):
        metadata["general.architecture"] = "llama"

    with pytest.raises(ValueError, match="architecture 'llama' is not read here"):
        damaged(make_published, tmp_path, foreign)


def test_a_published_file_without_our_keys_pools_as_it_says(make_published, tmp_path) -> None:
    def as_published(metadata, _):
        for key in ("bitembed.settings", "general.type"):
            del metadata[key]
        metadata["qwen3.pooling_type"] = 1

    damaged(make_published, tmp_path, as_published)
    assert BitEmbedder.from_pretrained(tmp_path / "bad.gguf", device="cpu").pooling == "mean"
