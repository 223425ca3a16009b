"""Attention and rotation by the native library, in float32; see `reference.py` for the arguments."""

import ctypes

import torch
from torch import Tensor

from bitembed_core.ops import library


def attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, causal: bool, window: int = 0
) -> Tensor:
    """As `reference.attention`; contiguous float32."""
    y = torch.empty_like(q)
    _, heads, width = q.shape
    library.native().bitembed_attention(
        *map(library.pointer, (q, k, v, offsets)),
        len(offsets) - 1,
        heads,
        k.shape[1],
        width,
        scale,
        causal,
        window,
        y.data_ptr(),
        library.threads(),
    )
    return y


def rotate(x: Tensor, offsets: Tensor, rotations: Tensor) -> Tensor:
    """As `reference.rotate`; contiguous float32."""
    y = x.clone()
    _, heads, width = x.shape
    no_norm = library.Norm()
    library.native().bitembed_rotate(
        y.data_ptr(),
        library.pointer(offsets),
        len(offsets) - 1,
        heads,
        width,
        ctypes.byref(no_norm),
        library.pointer(rotations),
        library.threads(),
    )
    return y
