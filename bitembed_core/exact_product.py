"""Products of vectors and a matrix whose sums are exact, so that a vector gets the same bits alone and beside others.

A matrix product adds up in another order for one row than for a hundred, and in yet another on another machine. Here factors
are whole numbers of so few bits that no sum in float64 is ever rounded (as in Ozaki et al., Numerical Algorithms 59, 2012,
with two parts for the matrix and one for the vectors).
"""

import torch
from torch import Tensor

SUM_BITS = 53  # of a float64
VECTOR_BITS = 26  # beside the largest component of a vector; a float32 has 24 beside each
EXPONENT_BIAS, FRACTION_BITS = 1023, 52  # of a float64


class ExactProduct:
    """`x -> x W`.

    Args:
        matrix: W, float32 (m, n), finite.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._step = 2.0 ** (
            SUM_BITS - VECTOR_BITS - (matrix.shape[0] - 1).bit_length()
        )  # 17 bits for m = 1024
        self._unit = power_above(matrix.double().abs().max())
        scaled = matrix.double() / self._unit * self._step
        self._high = scaled.round()
        self._low = ((scaled - self._high) * self._step).round()

    def __call__(self, x: Tensor) -> Tensor:
        """float64 (..., n) of x (..., m), without a gradient: the product of x, rounded to a part in 2^26 of a vector's
        largest component, and W, rounded to a part in 2^34 (m = 1024) of its largest value."""
        x = in_float64(x.detach())
        if self._unit.device != x.device:
            self._high, self._low, self._unit = (t.to(x.device) for t in (self._high, self._low, self._unit))
        unit = power_above(x.abs().amax(dim=-1, keepdim=True))
        whole = (x / unit * 2.0**VECTOR_BITS).round()
        high, low = whole @ self._high, whole @ self._low
        return (high + low / self._step) * (unit * self._unit / (self._step * 2.0**VECTOR_BITS))


def in_float64(x: Tensor) -> Tensor:
    """x in float64, on the CPU where its device has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def power_above(x: Tensor) -> Tensor:
    """The least power of two above float64 sizes x; 1 for what is not finite."""
    exponent = torch.frexp(x).exponent.long() + EXPONENT_BIAS
    return torch.where(x.isfinite(), (exponent << FRACTION_BITS).view(torch.float64), 1.0)
