"""Integer products by Triton against products of whole numbers, on ragged shapes and extreme codes."""

import pytest
import torch
from torch.nn import functional as F

from bitembed_core.ops.ternary_linear.planar import PlanarWeight, pack_planes, planar_weight, unpack_planes
from bitembed_core.ops.ternary_linear.product import (
    ACTIVATIONS,
    GELU_ERF,
    SILU,
    gated_product,
    ternary_product,
)
from bitembed_core.ternary_packing import pack_ternary

SHAPES = [
    (1, 1, 1),
    (1, 40, 33),
    (17, 5, 64),
    (33, 50, 100),
    (16, 16, 4),
    (2, 70, 130),
]  # tokens, rows, features


def operands(tokens: int, rows: int, features: int, kind: str, device: torch.device):
    generator = torch.Generator().manual_seed(tokens + rows + features)
    codes = torch.randint(-127, 128, (tokens, features), generator=generator, dtype=torch.int8)
    weight = torch.randint(-1, 2, (rows, features), generator=generator, dtype=torch.int8)
    if kind == "extreme":
        codes, weight = torch.full_like(codes, -127), torch.full_like(weight, -1)
    scale = torch.rand(tokens, generator=generator) + 0.5
    return codes.to(device), weight.to(device), scale.to(device)


@pytest.mark.parametrize("features", [1, 2, 3, 4, 5, 64, 101])
def test_planes_hold_every_weight(features, device) -> None:
    codes = torch.randint(-1, 2, (7, features), dtype=torch.int8, device=device)
    planes = pack_planes(codes)
    width = -(-features // 4)
    assert planes.shape == (7, width)
    for k in range(features):  # the documented rule, weight by weight
        assert torch.equal(
            (planes[:, k % width] >> (2 * (k // width))) & 3, (codes[:, k] + 1).to(torch.uint8)
        )
    assert torch.equal(unpack_planes(PlanarWeight(planes, features)), codes)
    assert torch.equal(planar_weight(pack_ternary(codes), features).planes, planes)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["random", "extreme"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_exact(shape, kind, packed, device) -> None:
    codes, weight, scale = operands(*shape, kind, device)
    y = ternary_product(
        codes[None],
        scale[None],
        pack_planes(weight) if packed else weight,
        torch.tensor([0.25], device=device),
        [shape[1]],
        None,
        None,
        torch.float32,
    )
    sums = (codes.cpu().long() @ weight.cpu().long().t()).to(device)
    assert torch.equal(y, sums.float() * (scale * 0.25)[:, None])


def test_bias_and_residual_are_added(device) -> None:
    codes, weight, scale = operands(19, 21, 40, "random", device)
    bias, residual = torch.randn(21, device=device), torch.randn(19, 21, device=device)
    arguments = (codes[None], scale[None], pack_planes(weight), torch.tensor([2.0], device=device), [21])
    y = ternary_product(*arguments, bias, residual, torch.float32)
    sums = (codes.cpu().long() @ weight.cpu().long().t()).to(device).float()
    torch.testing.assert_close(y, sums * (scale * 2.0)[:, None] + bias + residual, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rows", [[5], [32, 16], [40, 7, 7], [1, 1, 50], [16, 16, 16]])
def test_projections_in_one_launch(rows, shared, device) -> None:
    tokens, features = 18, 36
    parts = [operands(tokens, n, features, "random", device) for n in rows]
    codes = torch.stack([p[0] for p in parts[: 1 if shared else None]])
    scales = torch.stack([p[2] for p in parts[: 1 if shared else None]])
    w_scales = torch.arange(1.0, len(rows) + 1, device=device)
    weights = torch.cat([pack_planes(p[1]) for p in parts])
    bias = torch.randn(sum(rows), device=device)
    y = ternary_product(codes, scales, weights, w_scales, rows, bias, None, torch.float32)
    for i, (part, out) in enumerate(zip(parts, y.split(rows, dim=1), strict=True)):
        row = 0 if shared else i
        sums = (codes[row].cpu().long() @ part[1].cpu().long().t()).to(device).float()
        expected = sums * (scales[row] * w_scales[i])[:, None] + bias.split(rows)[i]
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_gate_and_up(activation, with_bias, shared, device) -> None:
    codes_gate, gate, scale_gate = operands(19, 37, 50, "random", device)
    codes_up, up, scale_up = operands(19, 37, 51, "random", device)
    codes_up, up = codes_up[:, :50], up[:, :50]
    if shared:
        codes_up, scale_up = codes_gate, scale_gate
    biases = torch.randn(2, 37, device=device) if with_bias else (None, None)
    w_scales = torch.tensor([2e-4, 3e-4], device=device)
    codes = codes_gate[None] if shared else torch.stack([codes_gate, codes_up])
    scales = scale_gate[None] if shared else torch.stack([scale_gate, scale_up])
    arguments = (codes, scales, pack_planes(gate), pack_planes(up), w_scales, *biases)
    y = gated_product(*arguments, ACTIVATIONS[activation], torch.float32)
    g, u = (
        c.float() @ w.float().t() * (s * w_scale)[:, None]
        for c, w, s, w_scale in ((codes_gate, gate, scale_gate, 2e-4), (codes_up, up, scale_up, 3e-4))
    )
    if with_bias:
        g, u = g + biases[0], u + biases[1]
    act = {
        "silu": F.silu,
        "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
        "gelu": F.gelu,
    }[activation]
    torch.testing.assert_close(y, act(g) * u, rtol=1e-5, atol=1e-5)


def test_up_without_gate(device) -> None:
    codes, up, scale = operands(5, 20, 30, "random", device)
    w_scales, bias = torch.tensor([9.0, 1e-3], device=device), torch.randn(20, device=device)
    y = gated_product(
        codes[None],
        scale[None],
        None,
        pack_planes(up),
        w_scales,
        None,
        bias,
        GELU_ERF,
        torch.float32,
    )
    expected = F.gelu(codes.float() @ up.float().t() * (scale * 1e-3)[:, None] + bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_no_tokens(device) -> None:
    codes, weight, scale = operands(0, 8, 12, "random", device)
    one = torch.ones(1, device=device)
    arguments = (codes[None], scale[None], pack_planes(weight), one, [8], None, None, torch.float32)
    assert ternary_product(*arguments).shape == (0, 8)


def test_operands_that_do_not_fit(device) -> None:
    codes, weight, scale = operands(3, 8, 12, "random", device)
    planes, one = pack_planes(weight), torch.ones(1, device=device)
    with pytest.raises(ValueError, match="do not fit weights"):
        ternary_product(codes[None], scale[None], planes, one, [9], None, None, torch.float32)
    with pytest.raises(ValueError, match="one to three"):
        ternary_product(codes[None], scale[None], planes, one.expand(4), [2] * 4, None, None, torch.float32)
    with pytest.raises(ValueError, match="same shape"):
        gated_product(
            codes[None],
            scale[None],
            planes[:4],
            planes,
            one.expand(2),
            None,
            None,
            SILU,
            torch.float32,
        )


def test_operators_are_registered_in_full(device) -> None:
    codes, weight, scale = operands(6, 20, 24, "random", device)
    planes, scales = pack_planes(weight), torch.ones(2, device=device)
    bias = torch.randn(20, device=device)
    torch.library.opcheck(
        ternary_product,
        (codes[None], scale[None], planes, scales, [12, 8], bias, None, torch.float32),
    )
    torch.library.opcheck(
        gated_product,
        (codes[None], scale[None], planes, planes, scales, bias, bias, SILU, torch.float32),
    )
