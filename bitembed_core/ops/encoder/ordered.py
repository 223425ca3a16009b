"""float32 arithmetic with a stated order, in plain torch: what the native operations compute, bit for bit.

A rounding to int8 turns a difference in the last bit into one of a whole step, and layers carry it on, so two encoders
whose sums differ in order alone end up with vectors of a cosine of 0.999 to each other. Here every sum has the order of the
native library (`kernels/cpu/src/simd.h`: sixteen lanes, then halves), and where that rounds a product and a sum once, so
does `fused`. Single sums, products, quotients and roots are those of IEEE 754.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 16
BEYOND_FLOAT32 = 35  # bits of a float64 before those that a float32 has no room for
TIE = -(1 << 63)  # those others, shifted to the front, of a float64 in the middle between two float32


def fused_step(a64: Tensor, b64: Tensor, c64: Tensor, kept: Tensor | None = None) -> Tensor:
    """`a b + c`, rounded once to float32, of float32 values in float64, where their product is exact.

    Args:
        kept: int64 in the shape of the result, to work in.
    """
    sum64 = torch.addcmul(c64, a64, b64)
    beyond = torch.bitwise_left_shift(sum64.view(torch.int64), BEYOND_FLOAT32, out=kept)
    y = sum64.float()
    if beyond.numel() and beyond.min() == TIE:
        tied = (beyond == TIE).nonzero(as_tuple=True)
        y[tied] = middle_rounded(*(t.expand(y.shape)[tied] for t in (sum64, a64, b64, c64)))
    return y


def middle_rounded(sum64: Tensor, a64: Tensor, b64: Tensor, c64: Tensor) -> Tensor:
    """float32 nearest to the exact `a b + c`, where the nearest float64 lies in the middle between two float32.

    That float64 may not be exact, and then the middle is not where the sum is: rounding twice is not rounding once.
    """
    product = a64 * b64
    shown = sum64 - c64
    rest = (c64 - (sum64 - shown)) + (product - shown)  # Knuth's two-sum: sum64 + rest is exact
    beside = torch.nextafter(sum64, torch.copysign(torch.full_like(rest, torch.inf), rest))
    return torch.where(rest == 0, sum64, beside).float()


def fused(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """`a b + c` of float32 tensors, rounded once; numbers are taken as float32."""
    factor, addend = (torch.as_tensor(v, dtype=torch.float32).double() for v in (b, c))
    return fused_step(a.double(), factor, addend.expand(a.shape))


def fused_product(a_HMK: Tensor, b_HKN: Tensor) -> Tensor:
    """`a b` (H, M, N) float32: every element is a chain of fused steps through K, from 0 and in order."""
    columns = a_HMK.double().movedim(2, 0).unsqueeze(3).contiguous()  # (K, H, M, 1)
    rows = b_HKN.double().movedim(1, 0).unsqueeze(2).contiguous()  # (K, H, 1, N)
    total64 = torch.zeros(a_HMK.shape[0], a_HMK.shape[1], b_HKN.shape[2], dtype=torch.float64)
    kept = torch.empty_like(total64, dtype=torch.int64)
    for column, row in zip(columns, rows, strict=True):
        total64.copy_(fused_step(column, row, total64, kept))
    return total64.float()


def ordered_sum(x: Tensor, chains: int = 1) -> Tensor:
    """Sum over the last axis, kept: sixteen lanes, each in order, then the lanes.

    Args:
        chains: sums of sixteen lanes that take turns as long as there is a full turn; then the first one goes on.
    """
    blocks = F.pad(x, (0, -x.shape[-1] % LANES)).unflatten(-1, (-1, LANES))
    turns = x.shape[-1] // (LANES * chains)
    taken = blocks[..., : turns * chains, :].unflatten(-2, (turns, chains))
    total = x.new_zeros(*x.shape[:-1], chains, LANES)
    for turn in range(turns):
        total = total + taken[..., turn, :, :]
    first, *others = total.unbind(-2)
    for block in range(turns * chains, blocks.shape[-2]):
        first = first + blocks[..., block, :]
    lanes = first if not others else (first + others[0]) + (others[1] + others[2])
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes


def root(x: Tensor) -> Tensor:
    """Square root, rounded to nearest; that of a float32 tensor may be a unit off in torch (MKL's vector mathematics)."""
    return x.double().sqrt().float()


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's scheme in fused steps, the highest power first; coefficients are taken as float32."""
    x64, numbers = x.double(), torch.tensor(coefficients, dtype=torch.float32).double()
    y64, kept = numbers[0].expand(x.shape), torch.empty_like(x64, dtype=torch.int64)
    for number in numbers[1:]:
        y64 = fused_step(y64, x64, number.expand(x.shape), kept).double()
    return y64.float()


def exponential(v: Tensor) -> Tensor:
    """`e^v` as the native library approximates it; 0 below -87."""
    x = v.clamp(-87.0, 88.0)
    power = (x * 1.44269504).round()
    t = fused(power, 2.12194440e-4, fused(power, -0.693359375, x)) * 1.44269504
    coefficients = (1.5478018e-4, 1.3400431e-3, 9.617995e-3, 5.550327e-2, 0.24022652, 0.6931472, 1.0)
    y = polynomial(t, coefficients)
    scaled = (y.view(torch.int32) + (power.nan_to_num().int() << 23)).view(torch.float32)
    return torch.where(v.isnan(), v, scaled.masked_fill(v < -87.0, 0.0))


def error_function(v: Tensor) -> Tensor:
    """`erf(v)` as the native library approximates it."""
    a = v.abs().clamp(max=4.0)
    small = (7.889119e-05, -8.020841e-4, 5.189535e-3, -2.6854444e-2, 0.112836, -0.37612626, 1.1283791)
    large = (2.5153406e-7, -2.5317533e-5, 4.6380327e-4, -4.28243e-3, 2.5373645e-2, -0.108639106, -0.63303953)
    near = polynomial(a * a, small) * a
    far = 1.0 - exponential(polynomial(a, (*large, -1.1296612, 2.0436493e-4)))
    return torch.where(a < 1.0, near, far).copysign(v)


def activated(v: Tensor, activation: str) -> Tensor:
    """SiLU, GELU, or GELU's tanh form."""
    if activation == "silu":
        return v / (1.0 + exponential(-v))
    if activation == "gelu":
        return 0.5 * v * (1.0 + error_function(v * 0.70710678))
    return v / (1.0 + exponential(-1.5957691 * (v + 0.044715 * v * v * v)))
