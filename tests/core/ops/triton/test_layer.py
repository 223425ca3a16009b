"""The ternary layer by Triton against the plain equation: values, gradients, dtypes, compilation."""

import pytest
import torch
from torch.nn import functional as F

from bitembed_core.bitlinear import BitLinear
from bitembed_core.ops.ternary_linear import KERNELS, Norm, integer, reference, select_kernel
from bitembed_core.ops.ternary_linear.triton import latent_linear, ternary_linear
from bitembed_core.quantizers import quantize_weight

SHAPES = [((1, 1), 1), ((33, 20), 7), ((2, 5, 64), 48), ((3, 2, 2, 17), 5)]


def leaves(shape: tuple[int, ...], out: int, device: torch.device) -> list[torch.Tensor]:
    torch.manual_seed(out)
    x, weight = torch.randn(shape), torch.randn(out, shape[-1])
    tensors = (x, weight, torch.linspace(-1, 1, out), torch.linspace(0.5, 2, shape[-1]))
    return [tensor.to(device).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_values_and_gradients_match_the_reference(shape, out, normed, device) -> None:
    results = []
    for layer in (reference.ternary_linear, ternary_linear):
        x, weight, bias, gain = leaves(shape, out, device)
        y = layer(x, weight, bias, Norm(gain, 1e-6) if normed else None)
        y.backward(torch.linspace(-1, 1, y.numel(), device=device).view_as(y))
        results.append((y, x.grad, weight.grad, bias.grad, *([gain.grad] if normed else [])))
    for expected, actual in zip(*results, strict=True):
        assert actual.shape == expected.shape
        largest = expected.abs().max().item()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * (1 + largest))


@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_values_are_those_of_the_integer_product(shape, out, device) -> None:
    x, weight, bias, _ = (leaf.detach() for leaf in leaves(shape, out, device))
    codes, scale = quantize_weight(weight)
    exact = integer.frozen_ternary_linear(*(t.cpu() for t in (x, codes, scale, bias)))
    assert torch.equal(KERNELS["triton"].frozen(x, codes, scale, bias).cpu(), exact)


@pytest.mark.parametrize("life", ["latent", "frozen", "packed"])
def test_the_module_runs_with_it_in_every_life(life, device) -> None:
    torch.manual_seed(0)
    layer = BitLinear(40, 24).to(device)
    layer.norm.weight.data.uniform_(0.5, 2)
    x = torch.randn(9, 40, device=device)
    layer.kernel = select_kernel("reference", device)
    expected = layer(x).detach()
    layer.kernel = select_kernel("triton", device)
    if life != "latent":
        layer.freeze()
    if life == "packed":
        from bitembed_core.ternary_packing import pack_ternary

        layer.packed_codes, layer.codes = pack_ternary(layer.codes), None
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-4, atol=1e-4)


def test_non_contiguous_tokens_and_gradients(device) -> None:
    x, weight, bias, gain = leaves((16, 12), 10, device)
    strided = x.detach().t().contiguous().t().requires_grad_()
    grad = torch.randn(10, 16, device=device).t()
    for leaf in (x, strided):
        ternary_linear(leaf, weight, bias, Norm(gain, 1e-6)).backward(grad)
    assert torch.equal(x.grad, strided.grad)


def test_autocast_gives_the_dtype_of_a_linear_layer(device) -> None:
    x, weight, _, _ = leaves((4, 16), 8, device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float16  # the interpreter has no bfloat16
    with torch.autocast(device.type, dtype=dtype):
        y = ternary_linear(x, weight)
        assert y.dtype == F.linear(x, weight).dtype == dtype
    y.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), reference.ternary_linear(x, weight), rtol=1e-2, atol=2e-2)


def test_operators_are_registered_in_full(device) -> None:
    x, weight, bias, gain = leaves((2, 3, 16), 8, device)
    torch.library.opcheck(latent_linear, (x, weight, bias, gain, 1e-6, torch.float32))
    torch.library.opcheck(latent_linear, (x, weight, None, None, 0.0, torch.float32))


def test_under_torch_compile(device) -> None:
    x, weight, bias, gain = leaves((5, 16), 8, device)

    def step(x: torch.Tensor) -> torch.Tensor:
        return F.gelu(ternary_linear(x, weight, bias, Norm(gain, 1e-6))).square().sum()

    step(x).backward()
    expected = [leaf.grad.clone() for leaf in (x, weight, bias, gain)]
    for leaf in (x, weight, bias, gain):
        leaf.grad = None
    torch.compile(step, backend="aot_eager", fullgraph=True)(x).backward()
    for leaf, grad in zip((x, weight, bias, gain), expected, strict=True):
        torch.testing.assert_close(leaf.grad, grad, rtol=1e-4, atol=1e-5)


def test_selection(device) -> None:
    assert select_kernel("triton", device).name == "triton"
    with pytest.raises(ValueError, match="runs on CUDA devices, the model is on meta"):
        select_kernel("triton", "meta")
