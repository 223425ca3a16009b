"""The native passes of a ternary linear in training, on every instruction set of this machine."""

import math

import pytest
import torch

from bitembed_core.ops import library
from bitembed_core.ops.norm_quantize.native import norm_quantize
from bitembed_core.ops.ternary_linear import Norm, blocked, passes
from bitembed_core.ops.ternary_linear.native import LatentWeight, PanelWeight
from bitembed_core.ops.ternary_linear.passes import NATIVE, norm_backward, scale_gradient
from bitembed_core.ternary_packing import pack_ternary

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library was not built")

SHAPES = [(1, 1), (3, 15), (5, 16), (129, 33), (300, 640), (0, 8)]
FLOATS = [torch.float32, torch.bfloat16]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.fixture(params=["torch multiplies", "the library multiplies"])
def way(request, monkeypatch) -> None:
    """Both products of `NATIVE.forward`, whichever is faster here; parts of few sums, so that there are several."""
    monkeypatch.setattr(passes, "torch_multiplies_faster", lambda: request.param == "torch multiplies")
    monkeypatch.setattr(blocked, "SUMS", 37 * 50)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 15), (16, 16), (33, 40), (47, 257)])
def test_latent_weights_are_quantized_as_equation_1_says(isa, rows, columns) -> None:
    w = random(rows, columns)
    w[0, 0], w[-1, -1] = 1e8, 0.0
    weight, scale = LatentWeight.quantized(w)
    assert scale == torch.tensor(math.fsum(w.abs().flatten().tolist()) / w.numel())
    expected = (w / (scale + 1e-5)).round().clamp(-1, 1).to(torch.int8)
    assert torch.equal(weight.codes, expected)
    assert torch.equal(weight.panels, PanelWeight(pack_ternary(expected), columns).panels)


def test_quotients_between_two_codes_are_rounded_to_the_even_one(isa) -> None:
    w = torch.tensor(
        [[0.5, -0.5, 1.5, -1.5, 0.5000001, -0.5000001, 0.49999997, torch.inf, -torch.inf, torch.nan]]
    )
    weight = LatentWeight(w, torch.tensor(1.0) - 1e-5)
    assert weight.codes.tolist() == [[0, 0, 1, -1, 1, -1, 0, 1, -1, 0]]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize(("biased", "normed"), [(False, False), (True, True)])
@pytest.mark.parametrize(("tokens", "features"), SHAPES)
def test_forward_is_the_sum_of_codes_bit_for_bit(
    isa, tokens, features, biased, normed, x_dtype, dtype
) -> None:
    x, w = random(tokens, features).to(x_dtype), random(37, features, seed=1)
    norm = Norm(random(features, seed=2), 1e-6) if normed else None
    bias = random(37, seed=3) if biased else None
    y, x_codes, x_scale, inverse_rms, w_codes, w_scale = NATIVE.forward(x, w, bias, norm, dtype)
    for found, expected in zip((x_codes, x_scale, inverse_rms), norm_quantize(x, norm), strict=True):
        assert torch.equal(found, expected)
    sums = (x_codes.long() @ w_codes.long().t()).float()
    expected = sums * (x_scale * w_scale)
    assert torch.equal(y, (expected if bias is None else expected + bias).to(dtype))


def test_forward_does_not_depend_on_the_other_tokens_or_the_threads(isa, way) -> None:
    x, w, norm = random(300, 70).to(torch.bfloat16), random(50, 70, seed=1), Norm(random(70, seed=2), 1e-6)
    alone = torch.cat([NATIVE.forward(row[None], w, None, norm, torch.float32).y for row in x])
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(NATIVE.forward(x, w, None, norm, torch.float32).y, alone)
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_are_those_of_float32(isa, way, dtype) -> None:
    x, w = random(5, 20), random(7, 20, seed=1)
    narrow = NATIVE.forward(x.to(dtype), w.to(dtype), None, None, dtype).y
    wide = NATIVE.forward(x.to(dtype).float(), w.to(dtype).float(), None, None, torch.float32).y
    assert torch.equal(narrow, wide.to(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("tokens", "features"), SHAPES)
def test_gradients_are_scaled_and_summed(isa, tokens, features, dtype) -> None:
    grad, scale = random(tokens, features).to(dtype), random(tokens, 1)
    scaled, total = scale_gradient(grad, scale, with_sum=True)
    assert torch.equal(scaled, (grad.float() * scale).to(dtype))
    torch.testing.assert_close(total.double(), grad.double().sum(dim=0), rtol=1e-5, atol=1e-4)
    assert scale_gradient(grad, scale, with_sum=False)[1] is None


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("grad_dtype", FLOATS)
@pytest.mark.parametrize(("tokens", "features"), SHAPES)
def test_gradient_of_the_norm_is_autograds(isa, tokens, features, grad_dtype, x_dtype) -> None:
    eps = 1e-6
    grad, narrow = random(tokens, features, seed=1).to(grad_dtype), random(tokens, features).to(x_dtype)
    x = narrow.double().requires_grad_()
    gain = random(features, seed=2).double().requires_grad_()
    inverse = (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    (gain * x * inverse).backward(grad.double())
    norm = Norm(gain.detach().float(), eps)
    grad_x, grad_gain = norm_backward(grad, narrow, inverse.detach().float(), norm)
    assert grad_x.dtype == x_dtype
    size = x.grad.abs().max().item() if tokens else 1.0
    rounding = 2**-8 if x_dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(grad_x.double(), x.grad, rtol=rounding, atol=1e-5 * max(size, 1.0))
    torch.testing.assert_close(grad_gain.double(), gain.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("tokens", "features"), SHAPES)
def test_bfloat16_is_quantized_as_the_float32_that_it_is(isa, tokens, features) -> None:
    x = random(tokens, features).to(torch.bfloat16)
    norm = Norm(random(features, seed=1), 1e-6)
    for narrow, wide in zip(norm_quantize(x, norm), norm_quantize(x.float(), norm), strict=True):
        assert torch.equal(narrow, wide)


def test_totals_do_not_depend_on_the_number_of_threads(isa) -> None:
    grad, scale = random(1000, 70), random(1000, 1)
    before = torch.get_num_threads()
    totals = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        totals.append(scale_gradient(grad, scale, with_sum=True)[1])
    torch.set_num_threads(before)
    assert torch.equal(totals[0], totals[1])
    assert torch.equal(totals[0], totals[2])


def test_not_a_number_stays_one(isa) -> None:
    grad = random(4, 20).to(torch.bfloat16)
    grad[2, 3] = torch.nan
    scaled, total = scale_gradient(grad, torch.ones(4, 1), with_sum=True)
    assert torch.equal(scaled.isnan(), grad.isnan())
    assert total.isnan().nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [0, 1, blocked.SUMS // 64 + 3])
def test_a_product_in_parts_is_the_whole_one(tokens, dtype) -> None:
    """More tokens than one part takes; every sum is exact, so every value is that of the unblocked product."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randint(-127, 128, (tokens, 24), generator=generator, dtype=torch.int8)
    w = torch.randint(-1, 2, (64, 24), generator=generator, dtype=torch.int8)
    scale, bias = random(tokens, 1), random(64)
    expected = ((x.long() @ w.long().t()).float() * scale + bias).to(dtype)
    assert torch.equal(blocked.scaled_product(x, w, scale, bias, dtype), expected)
