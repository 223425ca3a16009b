"""The native passes around the products of a ternary linear in training, on every instruction set of this machine."""

import pytest
import torch

from bitembed_core.ops import library
from bitembed_core.ops.norm_quantize.native import norm_quantize
from bitembed_core.ops.ternary_linear import Norm, integer
from bitembed_core.ops.ternary_linear.passes import NATIVE, norm_backward, rescale, scale_gradient

pytestmark = pytest.mark.skipif(not library.available(), reason="the native library was not built")

SHAPES = [(1, 1), (3, 15), (5, 16), (129, 33), (300, 640), (0, 8)]
FLOATS = [torch.float32, torch.bfloat16]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("tokens", "features"), SHAPES)
def test_sums_are_scaled_bit_for_bit(isa, tokens, features, biased, dtype) -> None:
    sums = random(tokens, features).mul(1e5).to(torch.int32)
    if sums.numel():
        sums[0, 0] = 2**31 - 1
    scale, bias = random(tokens, 1), random(features) if biased else None
    y = torch.empty(tokens, features, dtype=dtype)
    rescale(sums, scale, bias, y)
    expected = sums.float() * scale
    assert torch.equal(y, (expected if bias is None else expected + bias).to(dtype))


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
@pytest.mark.parametrize("tokens", [0, 1, integer.SUMS // 64 + 3])
def test_a_product_in_parts_is_the_whole_one(isa, tokens, dtype) -> None:
    """More tokens than one part takes; every sum is exact, so every value is that of the unblocked product."""
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randint(-127, 128, (tokens, 24), generator=generator, dtype=torch.int8)
    w = torch.randint(-1, 2, (64, 24), generator=generator, dtype=torch.int8)
    scale, bias = random(tokens, 1), random(64)
    expected = ((x.long() @ w.long().t()).float() * scale + bias).to(dtype)
    assert torch.equal(integer.scaled_product(x, w, scale, bias, dtype, NATIVE), expected)
    assert torch.equal(integer.scaled_product(x, w, scale, bias, dtype), expected)
