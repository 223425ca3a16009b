"""The integer product against the plain equation: values, gradients, edge shapes."""

import pytest
import torch
from torch.nn import functional as F

from bitembed_core.ops.ternary_linear import KERNELS, integer, reference, select_kernel
from bitembed_core.quantizers import quantize_activation, quantize_weight

SHAPES = [((1, 1), 1), ((63, 100), 7), ((2, 5, 64), 48), ((100, 1), 3), ((3, 2, 2, 17), 5), ((1, 3072), 4)]


def inputs(shape: tuple[int, ...], out: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape) + out)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(out, shape[-1], generator=generator)
    if kind == "extreme":  # every code at its bound, all of one sign: the largest possible sums
        x, weight = torch.full(shape, 3.0), torch.ones(out, shape[-1])
    if kind == "outlier":
        x[..., 0] = 1e4
        weight[0, 0] = -1e3
    return x, weight


@pytest.mark.parametrize("kind", ["gauss", "extreme", "outlier"])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_integer_product_is_exact(shape, out, kind) -> None:
    x, weight = inputs(shape, out, kind)
    x_codes, _ = quantize_activation(x.flatten(0, -2))
    w_codes, _ = quantize_weight(weight)
    exact = x_codes.long() @ w_codes.long().t()
    assert torch.equal(integer.integer_product(x_codes, w_codes).long(), exact)


@pytest.mark.parametrize("kind", ["gauss", "extreme", "outlier"])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_values_and_gradients_match_the_reference(shape, out, kind) -> None:
    x, weight = inputs(shape, out, kind)
    results = []
    for kernel in (reference, integer):
        x_, weight_ = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = kernel.ternary_linear(x_, weight_)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        results.append((y, x_.grad, weight_.grad))
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", KERNELS)
def test_frozen_equals_latent(name: str) -> None:
    kernel = KERNELS[name]
    x, weight = inputs((9, 33), 12, "gauss")
    assert torch.equal(kernel.frozen(x, *quantize_weight(weight)), kernel.latent(x, weight))


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    x, weight = inputs((50, 40), 16, "gauss")
    together = integer.ternary_linear(x, weight)
    alone = torch.cat([integer.ternary_linear(row[None], weight) for row in x])
    assert torch.equal(together, alone)


def test_autocast_gives_the_dtype_of_a_linear_layer() -> None:
    x, weight = inputs((4, 16), 8, "gauss")
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = integer.ternary_linear(x, weight)
        assert y.dtype == F.linear(x, weight).dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), reference.ternary_linear(x, weight), rtol=1e-2, atol=1e-2)


def test_non_contiguous_input() -> None:
    x, weight = inputs((16, 10), 8, "gauss")
    strided = x.t().contiguous().t()
    assert torch.equal(integer.ternary_linear(strided, weight), integer.ternary_linear(x, weight))


def test_kernel_selection_is_explicit() -> None:
    assert select_kernel("auto", "cpu").name == "int8"
    assert select_kernel("auto", "meta").name == "reference"
    with pytest.raises(ValueError, match="no kernel 'fast'"):
        select_kernel("fast", "cpu")
    with pytest.raises(ValueError, match="CPU only"):
        select_kernel("int8", "cuda")
