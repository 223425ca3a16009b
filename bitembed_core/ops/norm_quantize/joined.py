"""What lies between two products of an encoder, in one pass over each token: the sum with the residual, the norms around
it, and the codes for the next product.

With x a product's result: `s = after(residual + own(x))` are the states, `before(s)` is what the next projections quantize
with their own RMSNorms (Eq 3, then Eq 2). Each norm may be missing. Reference: `encoder.fused.normalised` and
`norm_quantize`; values are rounded to x's dtype where these have them in memory.
"""

from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from bitembed_core.ops.norm_quantize.triton import MOST_FEATURES, store_codes
from bitembed_core.ops.tuning import warps_for

KINDS = {"none": 0, "rms": 1, "layer": 2}


class Norm(Protocol):
    """As `encoder.architecture.NormPart`."""

    @property
    def kind(self) -> str: ...
    @property
    def weight(self) -> Tensor | None: ...
    @property
    def bias(self) -> Tensor | None: ...
    @property
    def eps(self) -> float: ...


@triton.jit
def normalised_token(x, weight_ptr, bias_ptr, k, inside, features, eps, KIND: tl.constexpr):
    """RMSNorm or LayerNorm of a token, zeros outside; x itself with neither."""
    y = x
    if KIND == 2:
        y = tl.where(inside, y - tl.sum(y, axis=0) / features, 0.0)
    if KIND > 0:
        inverse = tl.rsqrt(tl.sum(y * y, axis=0) / features + eps)
        y = y * inverse * tl.load(weight_ptr + k, mask=inside, other=0.0)
    if KIND == 2:
        y += tl.load(bias_ptr + k, mask=inside, other=0.0)
    return y


@triton.jit
def join_kernel(
    x_ptr,
    residual_ptr,
    own_ptr,
    own_bias_ptr,
    after_ptr,
    after_bias_ptr,
    before_ptr,
    before_bias_ptr,
    gain_ptr,
    states_ptr,
    codes_ptr,
    scale_ptr,
    features,
    own_eps,
    after_eps,
    before_eps,
    eps,
    OWN: tl.constexpr,
    AFTER: tl.constexpr,
    BEFORE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    STORES: tl.constexpr,
    PROJECTIONS: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    inside = k < features
    at = token * features + k
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x = normalised_token(x, own_ptr, own_bias_ptr, k, inside, features, own_eps, OWN).to(dtype).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = x.to(dtype).to(tl.float32)
    x = normalised_token(x, after_ptr, after_bias_ptr, k, inside, features, after_eps, AFTER).to(dtype)
    if STORES:
        tl.store(states_ptr + at, x, mask=inside)
    if PROJECTIONS > 0:
        x = x.to(tl.float32)
        x = normalised_token(x, before_ptr, before_bias_ptr, k, inside, features, before_eps, BEFORE)
        x = x.to(dtype).to(tl.float32)
        store_codes(x, gain_ptr, codes_ptr, scale_ptr, token, k, inside, features, eps, PROJECTIONS, HAS_GAIN)


def join(
    x_MK: Tensor,
    residual_MK: Tensor | None,
    own: Norm,
    after: Norm,
    before: Norm,
    gains_PK: Tensor | None,
    eps: float,
    quantizes: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The states, and codes for the next projections.

    Args:
        x_MK: contiguous, any floating dtype; residual_MK likewise, or None.
        own, after, before: norms as above, weights float32.
        gains_PK, eps: of the projections' RMSNorms, as in `norm_quantize`.
        quantizes: False leaves codes and scales empty.

    Returns:
        states (M, K) in x's dtype, x itself where nothing changes it; codes int8 (P, M, K); scale float32 (P, M).
    """
    tokens, features = x_MK.shape
    if features > MOST_FEATURES:
        raise ValueError(f"tokens of {features} features; the kernel takes up to {MOST_FEATURES}")
    stores = residual_MK is not None or (own.kind, after.kind) != ("none", "none")
    states_MK = torch.empty_like(x_MK) if stores else x_MK
    projections = 0 if not quantizes else 1 if gains_PK is None else len(gains_PK)
    codes_PMK = torch.empty(projections, tokens, features, dtype=torch.int8, device=x_MK.device)
    scale_PM = torch.empty(projections, tokens, device=x_MK.device)
    if tokens and (stores or quantizes):
        block = triton.next_power_of_2(features)
        norms = [part for norm in (own, after, before) for part in (norm.weight, norm.bias)]
        join_kernel[(tokens,)](
            x_MK,
            residual_MK,
            *norms,
            gains_PK,
            states_MK,
            codes_PMK,
            scale_PM,
            features,
            own.eps,
            after.eps,
            before.eps,
            eps,
            OWN=KINDS[own.kind],
            AFTER=KINDS[after.kind],
            BEFORE=KINDS[before.kind],
            HAS_RESIDUAL=residual_MK is not None,
            STORES=stores,
            PROJECTIONS=projections,
            HAS_GAIN=gains_PK is not None,
            BLOCK=block,
            num_warps=warps_for(block),
            enable_fp_fusion=False,
        )
    return states_MK, codes_PMK, scale_PM
