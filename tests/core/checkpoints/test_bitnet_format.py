"""transformers' BitNet format: its own layers beside ours, both scale conventions, and what is refused."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitNetQuantConfig
from transformers.integrations import bitnet

from bitembed_core import BitEmbedder
from bitembed_core.conversion import bit_linears
from bitembed_core.quantizers import quantize_weight

KINDS = [("bitlinear", "offline"), ("autobitlinear", "offline"), ("autobitlinear", "online")]
PACKED = [
    ("bitlinear", "offline", True),
    ("autobitlinear", "offline", True),
    ("autobitlinear", "offline", False),
]


def checkpoint(make_embedder, folder, linear_class, mode, with_norms=False, packed=True, bias=False):
    """A folder in the format, written with transformers' own `pack_weights`; returns its linears by name."""
    embedder = make_embedder("qwen3")
    embedder.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    quantization = BitNetQuantConfig(
        linear_class=linear_class, quantization_mode=mode, use_rms_norm=with_norms
    )
    config["quantization_config"] = {**quantization.to_dict(), "modules_to_not_convert": ["lm_head"]}
    config["attention_bias"] = bias
    tensors = load_file(folder / "model.safetensors")
    layers = {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        layer, latent = name.removesuffix(".weight"), tensors.pop(name)
        codes, scale = quantize_weight(latent)
        layers[layer] = (codes, scale)
        if mode == "online":
            tensors[name] = latent
        else:
            stored = bitnet.pack_weights(codes.clone().float()) if packed else codes.float()
            convention = 1 / scale if linear_class == "bitlinear" else scale
            tensors |= {name: stored, f"{layer}.weight_scale": convention.reshape(1)}
        if with_norms:
            tensors[f"{layer}.rms_norm.weight"] = torch.rand(latent.shape[1]) + 0.5
        if bias and "self_attn" in layer:
            tensors[f"{layer}.bias"] = torch.randn(latent.shape[0])
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return layers


def their_layer(linear_class, mode, codes, scale, latent, bias, norm):
    """transformers' module with the same weight."""
    rows, columns = codes.shape
    if linear_class == "bitlinear":
        layer = bitnet.BitLinear(
            columns, rows, bias is not None, dtype=torch.float32, use_rms_norm=norm is not None
        )
        layer.weight = bitnet.pack_weights(codes.clone().float())
        layer.weight_scale = (1 / scale).reshape(1)
    else:
        online = mode == "online"
        layer = bitnet.AutoBitLinear(
            columns,
            rows,
            bias is not None,
            dtype=torch.float32,
            online_quant=online,
            use_rms_norm=norm is not None,
        )
        layer.weight.data = latent if online else codes.float()
        if not online:
            layer.weight_scale = scale.reshape(1)
    if bias is not None:
        layer.bias.data = bias
    if norm is not None:
        layer.rms_norm.weight.data = norm
    return layer


@pytest.fixture
def uncompiled():
    """transformers compiles parts of its layers, which takes longer than everything else here."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize(("linear_class", "mode"), KINDS)
def test_every_layer_computes_what_transformers_computes(
    make_embedder, tmp_path, uncompiled, linear_class, mode, with_norms, bias
) -> None:
    layers = checkpoint(make_embedder, tmp_path / "m", linear_class, mode, with_norms, bias=bias)
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    model = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu").model
    found = dict(bit_linears(model))
    assert found.keys() == layers.keys()
    torch.manual_seed(0)
    for name, layer in found.items():
        codes, scale = layers[name]
        bias_tensor = tensors.get(f"model.{name}.bias")
        norm = tensors.get(f"model.{name}.rms_norm.weight")
        latent = tensors[f"model.{name}.weight"]
        theirs = their_layer(linear_class, mode, codes, scale, latent, bias_tensor, norm)
        x = torch.randn(5, codes.shape[1]) * 3
        with torch.no_grad():
            expected = theirs(x)
            # a rounding of an activation may fall the other way: our epsilon is 1e-5 beside the largest value
            assert (layer(x) - expected).abs().max() < 0.03 * expected.abs().max()
            assert torch.nn.functional.cosine_similarity(layer(x), expected).min() > 0.9999


@pytest.mark.parametrize(("linear_class", "mode", "packed"), PACKED)
def test_all_ways_to_store_a_model_give_the_same_embeddings(
    make_embedder, sentences, tmp_path, linear_class, mode, packed
) -> None:
    checkpoint(make_embedder, tmp_path / "online", "autobitlinear", "online")
    checkpoint(make_embedder, tmp_path / "m", linear_class, mode, packed=packed)
    expected = BitEmbedder.from_pretrained(tmp_path / "online", device="cpu").encode(sentences)
    embedder = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    tolerance = 1e-3 if linear_class == "bitlinear" else 0  # 1 / (1 / s) is s up to a rounding
    np.testing.assert_allclose(embedder.encode(sentences), expected, atol=tolerance)
    for layout in ("packed", "gguf"):
        embedder.save_pretrained(tmp_path / layout, layout)
        again = BitEmbedder.from_pretrained(tmp_path / layout, device="cpu")
        np.testing.assert_allclose(
            again.encode(sentences), embedder.encode(sentences), atol=0.02
        )  # table as float16


def test_modules_that_are_left_out_stay_in_floating_point(make_embedder, sentences, tmp_path) -> None:
    checkpoint(make_embedder, tmp_path / "m", "autobitlinear", "online")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = ["lm_head", "model.layers.1.mlp.down_proj"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    embedder = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert "layers.1.mlp.down_proj" not in dict(bit_linears(embedder.model))
    assert len(dict(bit_linears(embedder.model))) == 13
    embedder.save_pretrained(tmp_path / "latent", "latent")
    again = BitEmbedder.from_pretrained(tmp_path / "latent", device="cpu")
    assert (again.encode(sentences) == embedder.encode(sentences)).all()
    with pytest.raises(ValueError, match="every linear ternary"):
        embedder.save_pretrained(tmp_path / "release", "release")


def spoil(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_what_is_refused(make_embedder, tmp_path) -> None:
    name = "model.layers.0.mlp.up_proj"
    cases = {
        "missing": (
            lambda t: t.pop(f"{name}.rms_norm.weight"),
            "1 missing: layers.0.mlp.up_proj.norm.weight",
        ),
        "scale": (lambda t: t.pop(f"{name}.weight_scale"), "lacks its weight_scale"),
        "nan": (lambda t: t[f"{name}.weight_scale"].fill_(float("nan")), "where one positive number belongs"),
        "rows": (lambda t: t.update({f"{name}.weight": t[f"{name}.weight"][:3].clone()}), "not 48 rows"),
        "code": (lambda t: t[f"{name}.weight"].bitwise_or_(3), "no ternary code"),
    }
    for case, (change, message) in cases.items():
        checkpoint(make_embedder, tmp_path / case, "bitlinear", "offline", with_norms=True)
        spoil(tmp_path / case, change)
        with pytest.raises(ValueError, match=message):
            BitEmbedder.from_pretrained(tmp_path / case, device="cpu")
    checkpoint(make_embedder, tmp_path / "float", "autobitlinear", "offline", packed=False)
    spoil(tmp_path / "float", lambda t: t[f"{name}.weight"].add_(0.25))
    with pytest.raises(ValueError, match="other than -1, 0 and 1"):
        BitEmbedder.from_pretrained(tmp_path / "float", device="cpu")
