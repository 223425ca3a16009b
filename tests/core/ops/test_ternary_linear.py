"""The integer product against the plain equation: values, gradients, edge shapes."""

import pytest
import torch
from torch.nn import functional as F

from bitembed_core.ops import gpu, library
from bitembed_core.ops.ternary_linear import (
    KERNELS,
    Norm,
    annealed_linear,
    blocked,
    integer,
    reference,
    select_kernel,
)
from bitembed_core.quantizers import fake_quantize_weight, quantize_activation, quantize_weight

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
    scale = torch.ones(len(x_codes), 1)
    sums = blocked.scaled_product(x_codes, w_codes, scale, None, torch.float64)
    assert torch.equal(sums.long(), exact)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("kind", ["gauss", "extreme", "outlier"])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_values_and_gradients_match_the_reference(shape, out, kind, normed) -> None:
    x, weight = inputs(shape, out, kind)
    bias, gain = torch.linspace(-1, 1, out), torch.linspace(0.5, 2, shape[-1])
    results = []
    for kernel in (reference, integer):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias, gain)]
        y = kernel.ternary_linear(*leaves[:3], Norm(leaves[3], 1e-6) if normed else None)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        results.append((y, *(leaf.grad for leaf in leaves[: 4 if normed else 3])))
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        largest = expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * (1 + largest))


@pytest.mark.parametrize("width", [5, 384])
def test_blocks_change_nothing(monkeypatch, width) -> None:
    x, weight = inputs((70, width), 12, "gauss")
    gain = torch.linspace(-1, 2, width)
    results = []
    for block in (1, 3 * width, 1 << 30):
        monkeypatch.setattr(blocked, "BLOCK_ELEMENTS", block)
        leaf = x.clone().requires_grad_()
        y = integer.ternary_linear(leaf, weight, None, Norm(gain, 1e-6))
        y.backward(torch.sin(y.detach() * 10))
        results.append((y.detach(), leaf.grad))
    for y, grad in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_the_norm_is_equation_3() -> None:
    x, gain = [3.0, -4.0, 0.0, 1.0], [1.0, 2.0, 3.0, -1.0]
    rms = (sum(v * v for v in x) / 4 + 1e-6) ** 0.5
    expected = [w * v / rms for v, w in zip(x, gain, strict=True)]
    norm = Norm(torch.tensor(gain), 1e-6)
    torch.testing.assert_close(reference.normalised(torch.tensor([x]), norm), torch.tensor([expected]))
    codes, scale, _ = blocked.quantize_normalised(torch.tensor([x]), norm)
    largest = max(map(abs, expected))
    assert codes.tolist() == [[round(127 * v / (largest + 1e-5)) for v in expected]]
    assert scale.item() == pytest.approx(largest / 127)


def test_quantization_in_blocks_is_equation_2() -> None:
    x, _ = inputs((33, 17), 1, "outlier")
    codes, scale, _ = blocked.quantize_normalised(x, None)
    expected, expected_scale = quantize_activation(x)
    assert torch.equal(codes, expected)
    assert torch.equal(scale, expected_scale)


@pytest.mark.parametrize("name", KERNELS)
def test_frozen_equals_latent(name: str) -> None:
    kernel = KERNELS[name]
    x, weight = inputs((9, 33), 12, "gauss")
    assert torch.equal(kernel.frozen(x, *quantize_weight(weight)), kernel.latent(x, weight))


def test_the_ends_of_annealing_are_exact() -> None:
    x, weight = inputs((9, 33), 12, "gauss")
    x_codes, x_scale = quantize_activation(x)
    w_codes, w_scale = quantize_weight(weight)
    quantized = fake_quantize_weight(weight)
    float_weights = annealed_linear(x, weight, quantized, 0.0)
    assert torch.equal(float_weights, F.linear(x_codes * x_scale, weight))
    ternary = annealed_linear(x, weight, quantized, 1.0)
    assert torch.equal(ternary, F.linear(x_codes * x_scale, w_codes * w_scale))
    assert torch.equal(ternary, reference.ternary_linear(x, weight))


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
    assert select_kernel("auto", "cpu").name == ("native" if library.available() else "int8")
    assert select_kernel("auto", "meta").name == "reference"
    with pytest.raises(ValueError, match="no kernel 'fast'"):
        select_kernel("fast", "cpu")
    with pytest.raises(ValueError, match="CPU only"):
        select_kernel("int8", "cuda")


def test_cuda_without_triton_says_so_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(gpu, "installed", lambda: False)
    gpu._say_it_is_missing.cache_clear()
    for _ in range(2):
        assert select_kernel("auto", "cuda").name == "reference"
    assert caplog.text.count("Triton is not installed") == 1
    with pytest.raises(ValueError, match="needs the package triton"):
        select_kernel("triton", "cuda")
