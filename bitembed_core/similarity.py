"""Cosine similarity in full precision, whatever the dtype of the vectors and whether autocast is on.

A cosine divided by tau = 0.02 and rounded to bfloat16 is wrong by 0.2 and more, so no loss may compare in
less than float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 when it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_vectors(x: Tensor) -> Tensor:
    """`x` (..., d) scaled to length 1 along its last axis, in at least float32; zero vectors stay zero."""
    return F.normalize(full_precision(x), dim=-1)


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """All inner products (..., M, N) of the rows of `a` (..., M, d) and `b` (..., N, d), outside autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return full_precision(a) @ full_precision(b).transpose(-1, -2)
