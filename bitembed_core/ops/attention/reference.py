"""Attention and rotation, text by text, in plain torch."""

import torch
from torch import Tensor


def attention(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, causal: bool, window: int = 0
) -> Tensor:
    """`softmax(scale q k^T) v` within each text.

    Args:
        q: (tokens, heads, width). k, v: (tokens, kv_heads, width); heads share them in groups.
        offsets: (texts + 1,), see `library.text_offsets`.
        causal: tokens see no later ones.
        window: how far a token sees, itself included: `|i - j| < window`; 0 is everywhere.

    Returns:
        (tokens, heads, width).
    """
    groups = q.shape[1] // k.shape[1]
    y = torch.empty_like(q)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        keys, values = (t[start:end].repeat_interleave(groups, dim=1) for t in (k, v))
        scores_HTT = torch.einsum("thd,shd->hts", q[start:end], keys) * scale
        back_TT = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen_TT = back_TT >= 0 if causal else torch.ones_like(back_TT, dtype=torch.bool)
        if window:
            seen_TT = seen_TT & (back_TT.abs() < window)
        shares_HTT = scores_HTT.masked_fill(~seen_TT, -torch.inf).softmax(dim=-1)
        y[start:end] = torch.einsum("hts,shd->thd", shares_HTT, values)
    return y


def rotate(x: Tensor, offsets: Tensor, rotations: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) of x (tokens, heads, width), positions counted from each text's beginning.

    Args:
        rotations: (positions, width): cosines of the first half's components, then their sines.
    """
    lengths = (offsets[1:] - offsets[:-1]).tolist()
    positions = torch.cat([torch.arange(length) for length in lengths])
    cosine, sine = rotations[positions][:, None].chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
