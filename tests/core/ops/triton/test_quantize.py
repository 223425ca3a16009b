"""Quantization of tokens, weights and embeddings by Triton: codes equal bit for bit, gradients against autograd.

Expected codes and scales of tokens are computed on the CPU: on CUDA devices torch divides by a number by multiplying with
its rounded inverse.
"""

import math

import pytest
import torch

from bitembed_core.ops.norm_quantize.triton import norm_backward, norm_quantize
from bitembed_core.ops.output_quantize.triton import output_quantize
from bitembed_core.ops.ternary_linear import Norm, blocked
from bitembed_core.ops.ternary_linear.reference import normalised
from bitembed_core.ops.weight_quantize.triton import quantize_weight
from bitembed_core.storage.output_quantizer import OUTPUT_BITS, decode_codes, output_codes

SHAPES = [(1, 1), (3, 5), (7, 64), (2, 100), (5, 384), (130, 17)]
KINDS = ["gauss", "ties", "huge", "tiny", "zero", "nan"]


def tokens(shape: tuple[int, int], kind: str, device: torch.device) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if kind == "ties":  # quotients that lie in the middle between two codes: 127 v with v = (n + 1/2) / 127
        x = (torch.arange(x.numel()).reshape(shape) % 254 - 127 + 0.5) / 127
        x[:, 0] = 1.0
    if kind == "huge":
        x = x * 1e30
    if kind == "tiny":
        x = x * 1e-30
    if kind == "zero":
        x = x * 0
    if kind == "nan":
        x[0, -1] = torch.nan
    return x.to(device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_codes_of_tokens_are_those_of_equation_2(shape, kind, device) -> None:
    x = tokens(shape, kind, device)
    codes, scale, inverse_rms = (t.cpu() for t in norm_quantize(x, None, 0.0))
    x = x.cpu()
    largest = x.abs().amax(dim=1, keepdim=True)
    expected = torch.round(x * 127.0 / (largest + 1e-5))
    good = ~x.isnan().any(dim=1)
    assert torch.equal(codes[0][good], expected[good].to(torch.int8))
    assert torch.equal(scale[0][good], (largest / 127.0)[good, 0])
    assert scale[0][~good].isnan().all()
    assert torch.equal(inverse_rms, torch.ones(len(x)))


@pytest.mark.parametrize("kind", ["gauss", "huge", "tiny", "zero"])
@pytest.mark.parametrize("shape", SHAPES)
def test_normalised_codes_for_several_projections(shape, kind, device) -> None:
    x = tokens(shape, "gauss" if kind == "huge" else kind, device) * (1e15 if kind == "huge" else 1)
    gains = torch.stack([torch.linspace(-1, 2, shape[1]), torch.ones(shape[1])]).to(device)
    codes, scale, inverse_rms = (t.cpu() for t in norm_quantize(x, gains, 1e-6))
    x, gains = x.cpu(), gains.cpu()
    mean_square = x.double().square().mean(dim=1)
    torch.testing.assert_close(inverse_rms.double(), (mean_square + 1e-6).rsqrt(), rtol=3e-7, atol=0)
    for p in range(2):
        y = x * inverse_rms[:, None] * gains[p]
        largest = y.abs().amax(dim=1, keepdim=True)
        assert torch.equal(codes[p], torch.round(y * 127.0 / (largest + 1e-5)).to(torch.int8))
        assert torch.equal(scale[p], (largest / 127.0)[:, 0])


def test_strided_and_narrow_tokens(device) -> None:
    x = tokens((12, 40), "gauss", device)
    for view in (x.t(), x[:, ::2], x[1::3, 3:20]):
        expected, scale, _ = blocked.quantize_normalised(view.cpu().contiguous(), None)
        codes, scales, _ = (t.cpu() for t in norm_quantize(view, None, 0.0))
        assert torch.equal(codes[0], expected)
        assert torch.equal(scales[0], scale[:, 0])
    half = x.half()
    assert torch.equal(norm_quantize(half, None, 0.0)[0], norm_quantize(half.float(), None, 0.0)[0])


@pytest.mark.parametrize("shape", [*SHAPES, (0, 8)])
def test_norm_gradients(shape, device) -> None:
    x = torch.randn(shape, device=device).requires_grad_()
    gain = torch.linspace(-1, 2, shape[1], device=device).requires_grad_()
    grad = torch.randn(shape, device=device)
    normalised(x, Norm(gain, 1e-6)).backward(grad)
    inverse_rms = (x.detach().square().mean(dim=1) + 1e-6).rsqrt()
    grad_x, grad_gain = norm_backward(grad, x.detach(), inverse_rms, gain.detach())
    torch.testing.assert_close(grad_x, x.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad_gain, gain.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gauss", "zero", "outlier", "half"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 100), (130, 257)])
def test_ternary_weights_are_those_of_equation_1(shape, kind, device) -> None:
    w = torch.randn(shape, device=device)
    if kind == "zero":
        w *= 0
    if kind == "outlier":
        w[0, 0] = 1e20
    if kind == "half":
        w = w.half()
    codes, scale = quantize_weight(w)
    assert scale.item() == torch.tensor(math.fsum(w.abs().double().flatten().tolist()) / w.numel())
    assert torch.equal(codes, torch.clamp(torch.round(w.float() / (scale + 1e-5)), -1, 1).to(torch.int8))
    again = quantize_weight(w)
    assert torch.equal(again[0], codes)
    assert torch.equal(again[1], scale)


@pytest.mark.parametrize("dimension", [1, 7, 64, 70, 384])
def test_all_output_precisions_in_one_pass(dimension, device) -> None:
    e = torch.randn(9, dimension, device=device)
    e[1] = 0
    e[2] = e[2].abs()
    e[3, 0] = 1e30
    y = output_quantize(e, list(OUTPUT_BITS))
    for bits, values in zip(OUTPUT_BITS, y, strict=True):
        expected = e if bits == 16 else decode_codes(*output_codes(e, bits), bits)
        assert torch.equal(values, expected), bits


def test_output_gradients_pass_straight_through(device) -> None:
    e = torch.randn(5, 12, device=device, requires_grad=True)
    weights = torch.randn(3, 5, 12, device=device)
    (output_quantize(e, [1, 4, 16]) * weights).sum().backward()
    torch.testing.assert_close(e.grad, weights.sum(dim=0))


def test_operators_are_registered_in_full(device) -> None:
    x = torch.randn(4, 10, device=device)
    gains = torch.rand(2, 10, device=device)
    torch.library.opcheck(norm_quantize, (x, gains, 1e-6))
    torch.library.opcheck(norm_quantize, (x, None, 0.0))
    torch.library.opcheck(norm_backward, (x, x, x[:, 0].abs(), gains[0].contiguous()))
    torch.library.opcheck(quantize_weight, (x,))
    torch.library.opcheck(output_quantize, (x.clone().requires_grad_(), [1, 2, 16]))


def test_output_bits_that_do_not_exist(device) -> None:
    with pytest.raises(ValueError, match="bits must be out of"):
        output_quantize(torch.randn(2, 4, device=device), [3])
