"""Which layers become ternary, where the norms stand, and that calibration keeps the function."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bitembed_core.bitlinear import BitLinear
from bitembed_core.conversion import (
    annealed,
    bit_linears,
    conversion_report,
    convert_to_bitnet,
    freeze,
    input_rms,
    learn_scales,
    use_kernel,
)
from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear import TernaryLinearKernel, unquantized_linear
from bitembed_core.quantizers import quantize_activation, quantize_weight

DECODER = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
DECODER += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
ENCODER = ["attention.self.query", "attention.self.key", "attention.self.value"]
ENCODER += ["attention.output.dense", "intermediate.dense", "output.dense"]
PROJECTIONS = {
    "qwen3": ("layers", DECODER),
    "gemma3": ("layers", DECODER),
    "bert": ("encoder.layer", ENCODER),
}
OUTPUTS = ("o_proj", "down_proj", "attention.output.dense", "output.dense")


@pytest.mark.parametrize("architecture", PROJECTIONS)
@pytest.mark.parametrize("sites", ["all", "output"])
def test_every_linear_of_every_block_and_nothing_else(make_embedder, architecture, sites) -> None:
    model = make_embedder(architecture).model
    assert convert_to_bitnet(model, sites) is model
    prefix, names = PROJECTIONS[architecture]
    expected = {f"{prefix}.{block}.{name}" for block in range(2) for name in names}
    found = dict(bit_linears(model))
    assert set(found) == expected
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    for name, module in found.items():
        assert (module.norm is not None) == (sites == "all" or name.endswith(OUTPUTS))
    state = model.state_dict()
    assert f"{prefix}.0.{names[-1]}.norm.weight" in state  # the released tensor name


@pytest.mark.parametrize("architecture", PROJECTIONS)
def test_the_report_accounts_for_every_parameter(make_embedder, architecture) -> None:
    model = make_embedder(architecture).model
    everything = sum(p.numel() for p in model.parameters())
    convert_to_bitnet(model)
    report = conversion_report(model)
    norms = sum(
        p.numel()
        for n, p in model.named_parameters()
        if n.endswith(".norm.weight") and n[:-12] in report.ternary
    )
    assert report.ternary_weights + report.floating_point_weights == everything + norms
    tables = [name for name, why in report.floating_point.items() if why == "embedding table"]
    assert any("embed" in name for name in tables)
    assert not any(why.startswith("outside") for why in report.floating_point.values())


def test_calibration_sets_the_gain_to_the_mean_rms_of_real_tokens(tiny_embedder, sentences) -> None:
    model = tiny_embedder.model
    batch = tiny_embedder.tokenize(sentences)
    name = "encoder.layer.1.output.dense"
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    values = [
        sum(v * v for v in state.tolist()) ** 0.5 / len(state) ** 0.5
        for state, real in zip(seen[0].flatten(0, 1), batch["attention_mask"].flatten(), strict=True)
        if real
    ]
    convert_to_bitnet(model, "all", [batch])
    gain = model.get_submodule(name).norm.weight
    torch.testing.assert_close(gain, torch.full_like(gain, sum(values) / len(values)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", PROJECTIONS)
def test_calibrated_norms_keep_the_function_and_unit_gains_do_not(
    make_embedder, sentences, architecture
) -> None:
    def similarity(calibrated: bool) -> float:
        embedder = make_embedder(architecture)
        batch = embedder.tokenize(sentences)
        with torch.no_grad():
            for _, parameter in embedder.model.named_parameters():
                if parameter.ndim == 2 and parameter.shape[0] != 260:
                    parameter.mul_(8)  # inputs of the projections get an RMS far from 1
            before = embedder.embed(batch)
            convert_to_bitnet(embedder.model, "all", [batch] if calibrated else None)
            for _, module in bit_linears(embedder.model):
                module.kernel = TernaryLinearKernel("float", unquantized_linear, unquantized_linear)
            return F.cosine_similarity(before, embedder.embed(batch)).mean().item()

    assert similarity(calibrated=True) > 0.85
    assert similarity(calibrated=True) > similarity(calibrated=False)


def test_bitlinear_restated() -> None:
    torch.manual_seed(3)
    layer = BitLinear(10, 4, bias=True)
    with torch.no_grad():
        layer.norm.weight.normal_()
        layer.bias.normal_()
    x = torch.randn(2, 3, 10)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.norm.weight
    x_codes, x_scale = quantize_activation(normed)
    w_codes, w_scale = quantize_weight(layer.weight)
    expected = (x_codes.float() @ w_codes.float().t()) * x_scale * w_scale + layer.bias
    torch.testing.assert_close(layer(x), expected)
    latent = layer(x)
    layer.freeze()
    assert layer.life == "frozen"
    assert torch.equal(layer(x), latent)


def test_freezing_drops_the_latent_weights_and_keeps_the_answers(tiny_embedder, sentences) -> None:
    tiny_embedder.convert()
    before = tiny_embedder.encode(sentences)
    codes = [m.ternary()[0] for _, m in bit_linears(tiny_embedder.model)]
    freeze(tiny_embedder.model)
    assert (tiny_embedder.encode(sentences) == before).all()
    frozen = [m.codes for _, m in bit_linears(tiny_embedder.model)]
    assert all(torch.equal(new, old) for new, old in zip(frozen, codes, strict=True))


@pytest.mark.parametrize("architecture", PROJECTIONS)
def test_kernels_agree_on_a_whole_model(make_embedder, sentences, architecture) -> None:
    embedder = make_embedder(architecture)
    embedder.convert()
    assert embedder.kernel.startswith("native-") or not library.available()
    integer = embedder.encode(sentences)
    assert use_kernel(embedder.model, "reference") == "reference"
    similarity = (embedder.encode(sentences) * integer).sum(axis=1)
    assert similarity.min() > 0.999


def test_bad_requests(tiny_embedder) -> None:
    model = tiny_embedder.model
    with pytest.raises(ValueError, match="'all' or 'output'"):
        convert_to_bitnet(model, "some")
    with pytest.raises(ValueError, match="at least one non-empty text"):
        input_rms(model, [], [])
    convert_to_bitnet(model)
    with pytest.raises(ValueError, match="ternary layers already"):
        convert_to_bitnet(model)
    odd = nn.Module()
    odd.config = type("Config", (), {"num_hidden_layers": 3})()
    with pytest.raises(ValueError, match="no list of transformer blocks"):
        convert_to_bitnet(odd)


@pytest.mark.parametrize("kernel", ["reference", "int8"])
@pytest.mark.parametrize("pressure", [0.0, 0.4, 1.0])
def test_annealing_rounds_the_weights_in_part_and_the_tokens_wholly(kernel: str, pressure: float) -> None:
    torch.manual_seed(0)
    layer = BitLinear(24, 10)
    use_kernel(layer, kernel)
    x = torch.randn(6, 24)
    leaves = (layer.weight, layer.bias, layer.norm.weight)
    with torch.no_grad():
        layer.norm.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        x_codes, x_scale = quantize_activation(F.rms_norm(x, (24,), layer.norm.weight, layer.norm.eps))
        w_codes, w_scale = quantize_weight(layer.weight)
    weight = (layer.weight.detach() + pressure * (w_codes * w_scale - layer.weight.detach())).requires_grad_()
    tokens = (x_codes * x_scale).requires_grad_()
    expected = F.linear(tokens, weight, layer.bias.detach())
    upstream = torch.randn(6, 10)
    expected.backward(upstream)
    with annealed(layer, pressure):
        y = layer(x)
        inside = torch.autograd.grad(y, leaves, upstream)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inside[0], weight.grad, rtol=1e-4, atol=1e-4)  # straight through
    torch.testing.assert_close(inside[1], upstream.sum(dim=0))
    x_hat = F.rms_norm(x, (24,), None, layer.norm.eps)
    torch.testing.assert_close(inside[2], (tokens.grad * x_hat).sum(dim=0), rtol=1e-4, atol=1e-4)


def test_outside_the_annealing_the_model_is_ternary(make_embedder) -> None:
    embedder = make_embedder("bert")
    embedder.convert()
    batch = embedder.tokenize(["one text", "another one"])
    embedded = embedder.embed(batch)
    with annealed(embedder.model, 0.0):
        softened = embedder.embed(batch)
        assert not torch.allclose(softened, embedded, atol=1e-2)
    with annealed(embedder.model, 1.0):
        assert torch.equal(embedder.embed(batch), embedded)
    assert torch.equal(embedder.embed(batch), embedded)


def test_learned_scales_begin_with_equation_1_and_are_what_every_life_has(make_embedder) -> None:
    embedder = make_embedder("bert")
    embedder.convert()
    texts = ["one text", "another one"]
    before = embedder.encode(texts)
    layers = [layer for _, layer in bit_linears(embedder.model)]
    means = [quantize_weight(layer.weight)[1] for layer in layers]
    report = conversion_report(embedder.model)
    learn_scales(embedder.model)
    assert conversion_report(embedder.model) == report  # a scale is part of its ternary weight
    similarity = (embedder.encode(texts) * before).sum(axis=1)
    assert similarity.min() > 0.999  # a weight at the threshold may fall to its other side
    with torch.no_grad():
        for layer in layers:
            layer.log_scale.add_(0.3)
    for layer, mean in zip(layers, means, strict=True):
        codes, scale = layer.ternary()
        assert scale == pytest.approx(float(mean.detach()) * math.exp(0.3), rel=1e-4)
        wanted = (layer.weight / layer.log_scale.exp()).round().clamp(-1, 1)
        assert torch.equal(codes, wanted.to(torch.int8))
    latent, embedded = embedder.encode(texts), embedder.embed(embedder.tokenize(texts))
    assert (latent * before).sum(axis=1).max() < 0.9999  # the encoder takes over what was changed
    embedder.freeze()
    assert all(layer.log_scale is None for layer in layers)
    assert (embedder.encode(texts) == latent).all()
    torch.testing.assert_close(embedder.embed(embedder.tokenize(texts)), embedded)
    with pytest.raises(ValueError, match="this layer is frozen"):
        learn_scales(embedder.model)


@pytest.mark.parametrize("kernel", ["reference", "int8"])
def test_a_learned_scale_is_trained_with_its_weight(kernel: str) -> None:
    """Against LSQ written out in floating point, with and without annealing."""
    for pressure in (0.5, 1.0):
        torch.manual_seed(0)
        layer = BitLinear(24, 10, norm_eps=None)
        use_kernel(layer, kernel)
        layer.learn_scale()
        x, upstream = torch.randn(6, 24), torch.randn(6, 10)
        x_codes, x_scale = quantize_activation(x)
        weight, log_scale = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.log_scale))
        clipped = (weight.detach() / log_scale.exp()).clamp(-1, 1)
        ternary = log_scale.exp() * (clipped + (clipped.round() - clipped).detach())
        ternary = ternary + weight - weight.detach()  # straight through
        weight_between = weight + pressure * (ternary - weight)
        expected = F.linear(x_codes * x_scale, weight_between, layer.bias)
        wanted = torch.autograd.grad(expected, (weight, log_scale), upstream)
        with annealed(layer, pressure):
            y = layer(x)
        found = torch.autograd.grad(y, (layer.weight, layer.log_scale), upstream)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[1], wanted[1] / weight.numel() ** 0.5, rtol=1e-3, atol=1e-5)
