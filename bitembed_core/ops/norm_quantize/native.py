"""Norm and quantization in one pass of the native library: codes equal the reference's, given its inverse RMS."""

import torch
from torch import Tensor

from bitembed_core.ops import library
from bitembed_core.ops.ternary_linear.operands import Norm


def norm_quantize(x_MK: Tensor, norm: Norm | None) -> tuple[Tensor, Tensor, Tensor]:
    """As `quantize_normalised`: codes int8 (M, K), scale (M, 1) and inverse RMS (M, 1) (ones without a norm)."""
    tokens, features = x_MK.shape
    x = library.float32_or_bfloat16(x_MK)
    gain = None if norm is None else norm.gain.detach().float().contiguous()
    codes = torch.empty(tokens, features, dtype=torch.int8)
    scale, inverse_rms = torch.empty(tokens, 1), torch.empty(tokens, 1)
    library.native().bitembed_norm_quantize(
        x.data_ptr(),
        tokens,
        features,
        library.pointer(gain),
        0.0 if norm is None else norm.eps,
        codes.data_ptr(),
        scale.data_ptr(),
        inverse_rms.data_ptr(),
        x.dtype == torch.bfloat16,
        library.threads(),
    )
    return codes, scale, inverse_rms
