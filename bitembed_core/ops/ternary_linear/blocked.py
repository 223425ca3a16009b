"""The integer kernel's forward pass, and the passes around its gradient's products, in plain torch, a block at a time.

Norm and quantization are a dozen cheap operations on the input. Over the whole tensor each of them streams through
memory and allocates; over a block that stays in the cache they need not. Blocks are whole tokens and every
operation is per token, so the results are those of the unblocked code bit for bit.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from bitembed_core.ops.ternary_linear.operands import Forward, Norm
from bitembed_core.quantizers import EPS, quantize_weight

SUMS = 1 << 18  # int32 sums held at once: a megabyte, which stays in the cache until it has been rescaled
BLOCK_ELEMENTS = 1 << 17  # of float32: half a megabyte


def blocks(x_MK: Tensor) -> Iterator[slice]:
    """Consecutive row ranges of at most BLOCK_ELEMENTS elements."""
    rows = max(1, BLOCK_ELEMENTS // max(1, x_MK.shape[1]))
    return (slice(start, start + rows) for start in range(0, x_MK.shape[0], rows))


def quantize_normalised(x_MK: Tensor, norm: Norm | None) -> tuple[Tensor, Tensor, Tensor]:
    """Eq 3, then Eq 2: codes int8 (M, K), scale float32 (M, 1), and the inverse RMS (M, 1) (ones without a norm)."""
    codes_MK = torch.empty(x_MK.shape, dtype=torch.int8, device=x_MK.device)
    scale_M1 = torch.empty(x_MK.shape[0], 1, device=x_MK.device)
    inverse_rms_M1 = torch.ones_like(scale_M1)
    for rows in blocks(x_MK):
        block = x_MK[rows].to(torch.float32, copy=True)
        if norm is not None:
            mean_square = block.square().mean(dim=-1, keepdim=True)
            torch.rsqrt(mean_square.add_(norm.eps), out=inverse_rms_M1[rows])
            block.mul_(inverse_rms_M1[rows]).mul_(norm.gain)
        low, high = torch.aminmax(block, dim=-1, keepdim=True)
        largest = torch.maximum(-low, high)
        codes_MK[rows] = (
            block.mul_(127.0).div_(largest + EPS).round_()
        )  # at most 127 in size, no need to clip
        torch.div(largest, 127.0, out=scale_M1[rows])
    return codes_MK, scale_M1, inverse_rms_M1


def rescale(sums_MN: Tensor, scale_M1: Tensor, bias: Tensor | None, y_MN: Tensor) -> None:
    """Write `sums * scale + bias` of int32 sums into y, of any floating-point dtype."""
    block = sums_MN * scale_M1
    y_MN.copy_(block if bias is None else block.add_(bias))


def scaled_product(
    x_codes_MK: Tensor,
    w_codes_NK: Tensor,
    scale_M1: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    rescale: Callable[[Tensor, Tensor, Tensor | None, Tensor], None] = rescale,
) -> Tensor:
    """`x w^T * scale + bias` (M, N) in `dtype`; the sums of int8 x and w are exact, in int32."""
    if x_codes_MK.shape[1] == 1:  # torch 2.13 leaves the result of _int_mm unwritten when K is 1
        x_codes_MK, w_codes_NK = F.pad(x_codes_MK, (0, 1)), F.pad(w_codes_NK, (0, 1))
    tokens, features = x_codes_MK.shape[0], w_codes_NK.shape[0]
    y_MN = torch.empty(tokens, features, dtype=dtype)
    at_once = min(tokens, max(1, SUMS // features))
    sums = torch.empty(at_once, features, dtype=torch.int32)
    for start in range(0, tokens, max(1, at_once)):
        rows = slice(start, start + at_once)
        some = sums[: len(y_MN[rows])]
        torch._int_mm(x_codes_MK[rows], w_codes_NK.t(), out=some)
        rescale(some, scale_M1[rows], bias, y_MN[rows])
    return y_MN


def forward(
    x_MK: Tensor, weight_NK: Tensor, bias: Tensor | None, norm: Norm | None, dtype: torch.dtype
) -> Forward:
    """The layer, in `dtype`, and what its gradient needs."""
    x_codes_MK, x_scale_M1, inverse_rms_M1 = quantize_normalised(x_MK, norm)
    w_codes_NK, w_scale = quantize_weight(weight_NK)
    y_MN = scaled_product(x_codes_MK, w_codes_NK, x_scale_M1 * w_scale, bias, dtype)
    return Forward(y_MN, x_codes_MK, x_scale_M1, inverse_rms_M1, w_codes_NK, w_scale)


def scale_gradient(grad_MN: Tensor, scale_M1: Tensor, with_sum: bool) -> tuple[Tensor, Tensor | None]:
    """`grad * scale` in grad's dtype, and `sum_tokens grad` (N,) in float32 if it is asked for."""
    scaled_MN = torch.empty_like(grad_MN)
    total_N = torch.zeros(grad_MN.shape[1], device=grad_MN.device) if with_sum else None
    for rows in blocks(grad_MN):
        block = grad_MN[rows].float()
        if total_N is not None:
            total_N += block.sum(dim=0)
        scaled_MN[rows] = block * scale_M1[rows]
    return scaled_MN, total_N


def norm_backward(grad_MK: Tensor, x_MK: Tensor, inverse_rms_M1: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Gradients of `y = w x^`, `x^ = r x`, `r = 1 / sqrt(mean(x^2) + eps)`:

    `dx = r (w dy - x^ mean(w dy x^))` in x's dtype, and `dw = sum_tokens dy x^` in float32.
    """
    grad_x_MK = torch.empty_like(x_MK)
    grad_gain = torch.zeros_like(norm.gain, dtype=torch.float32)
    for rows in blocks(x_MK):
        grad = grad_MK[rows].to(torch.float32, copy=True)
        x_hat = x_MK[rows] * inverse_rms_M1[rows]
        product = grad * x_hat
        grad_gain += product.sum(dim=0)
        mean = product.mul_(norm.gain).mean(dim=-1, keepdim=True)
        grad_x_MK[rows] = grad.mul_(norm.gain).sub_(x_hat.mul_(mean)).mul_(inverse_rms_M1[rows])
    return grad_x_MK, grad_gain
