"""The ternary encoder in plain torch: the equations, in the order in which the native encoder computes them.

Both give the same vectors to the last bit, on every instruction set. Texts go one by one; expect seconds for a long one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear
from bitembed_core.embedding_table import QuantizedEmbedding, decode_rows
from bitembed_core.ops.encoder.architecture import LayerPart, NormPart, check_ids, describe, state_of
from bitembed_core.ops.encoder.ordered import LANES, activated, exponential, fused_product, ordered_sum, root
from bitembed_core.pooling import PoolingMode
from bitembed_core.quantizers import quantize_activation
from bitembed_core.tokenization import TOKEN_BUDGET

QUERIES_AT_ONCE = 64
EXACT_IN_FLOAT32 = 1 << 24


class ReferenceEncoder:
    """A ternary `model` on the CPU, which must stay alive and unchanged (see `is_current`).

    Raises:
        NotDescribed: the model has something that our encoders do not compute.
    """

    token_budget = TOKEN_BUDGET

    def __init__(self, model: PreTrainedModel, pooling: PoolingMode) -> None:
        self._model, self._pooling = model, pooling
        self._state = state_of(model, pooling)
        self._architecture = describe(model)

    def is_current(self, pooling: PoolingMode) -> bool:
        """Whether the model still is what it was, and is pooled the same way."""
        return self._state == state_of(self._model, pooling)

    @torch.no_grad()
    def encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Vectors float32 (texts, hidden) of token ids.

        Raises:
            ValueError: a text without tokens, one longer than the model has positions for, or an id outside the vocabulary.
        """
        check_ids(ids, self._architecture)
        return torch.stack([self._vector(torch.tensor(tokens)) for tokens in ids])

    def _vector(self, ids_T: Tensor) -> Tensor:
        a = self._architecture
        states_TD = rows(a.tokens, ids_T)
        if a.types is not None:
            states_TD = states_TD + rows(a.types, torch.zeros_like(ids_T))
        if a.positions is not None:
            states_TD = states_TD + rows(a.positions, torch.arange(len(ids_T)))
        states_TD = normalised(states_TD, a.embedding_norm)
        for layer in a.layers:
            states_TD = self._layer(layer, states_TD)
        return self._pool(states_TD)

    def _layer(self, layer: LayerPart, states_TD: Tensor) -> Tensor:
        a = self._architecture
        before = NormPart() if a.post_norm else layer.attention_norm
        branch = self._attention(layer, normalised(states_TD, before))
        states_TD = states_TD + normalised(branch, layer.attention_output_norm)
        if a.post_norm:
            states_TD = normalised(states_TD, layer.attention_norm)
        x = states_TD if a.post_norm else normalised(states_TD, layer.ffn_norm)
        up = linear(x, layer.up)
        inner = activated(up, a.activation)
        if layer.gate is not None:
            inner = activated(linear(x, layer.gate), a.activation) * up
        states_TD = states_TD + normalised(linear(inner, layer.down), layer.ffn_output_norm)
        return normalised(states_TD, layer.ffn_norm) if a.post_norm else states_TD

    def _attention(self, layer: LayerPart, x_TD: Tensor) -> Tensor:
        a = self._architecture
        q_THC, k_TGC, v_TGC = (
            linear(x_TD, projection).unflatten(1, (-1, a.head_dim))
            for projection in (layer.query, layer.key, layer.value)
        )
        q_THC, k_TGC = normalised(q_THC, layer.query_norm), normalised(k_TGC, layer.key_norm)
        if layer.rotation is not None and a.rotations is not None:
            rotations = a.rotations(layer.rotation, len(x_TD))
            q_THC, k_TGC = rotated(q_THC, rotations), rotated(k_TGC, rotations)
        groups = a.heads // a.kv_heads
        keys, values = (t.repeat_interleave(groups, dim=1).transpose(0, 1) for t in (k_TGC, v_TGC))
        y_HTC = attention(q_THC.transpose(0, 1), keys, values, a.attention_scale, a.causal, layer.window)
        return linear(y_HTC.transpose(0, 1).flatten(1), layer.attention_output)

    def _pool(self, states_TD: Tensor) -> Tensor:
        norm = self._architecture.final_norm
        if self._pooling == "mean":
            pooled = torch.zeros_like(states_TD[0])
            for state in normalised(states_TD, norm):
                pooled = pooled + state
            pooled = pooled / len(states_TD)
        else:
            pooled = normalised(states_TD[-1 if self._pooling == "last" else 0], norm)
        length = root(ordered_sum(pooled * pooled))
        return pooled / length.clamp(min=1e-12)


def rows(table: nn.Module, ids_T: Tensor) -> Tensor:
    """float32 (T, D) of an embedding table, quantized or not."""
    if isinstance(table, QuantizedEmbedding):
        scale = None if table.scale is None else table.scale[ids_T]
        return decode_rows(table.table[ids_T], scale, table.precision, table.dimension) * table.multiplier
    assert isinstance(table, nn.Embedding)
    return table.weight[ids_T].float() * float(getattr(table, "scalar_embed_scale", 1.0))


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """`1 / sqrt(mean(x^2) + eps)` (..., 1) over the last axis."""
    return 1.0 / root(ordered_sum(x * x, chains=4) / x.shape[-1] + eps)


def normalised(x: Tensor, norm: NormPart) -> Tensor:
    """`norm(x)` over the last axis."""
    if norm.kind == "none":
        return x
    assert norm.weight is not None
    if norm.kind == "rms":
        return x * inverse_rms(x, norm.eps) * norm.weight
    centred = x - ordered_sum(x) / x.shape[-1]
    factor = 1.0 / root(ordered_sum(centred * centred) / x.shape[-1] + norm.eps)
    y = centred * factor * norm.weight
    return y if norm.bias is None else y + norm.bias


def linear(x_TK: Tensor, layer: BitLinear) -> Tensor:
    """`Qx(norm(x)) Qw(W)^T + bias` (T, N) with an exact integer sum (Eq 1 to 3)."""
    if layer.norm is not None:
        x_TK = x_TK * inverse_rms(x_TK, layer.norm.eps) * layer.norm.weight.float()
    codes_TK, scale_T1 = quantize_activation(x_TK)
    weight_NK, weight_scale = layer.ternary()
    exact = torch.float32 if 127 * layer.in_features < EXACT_IN_FLOAT32 else torch.float64
    y_TN = F.linear(codes_TK.to(exact), weight_NK.to(exact)).float() * (scale_T1 * weight_scale)
    return y_TN if layer.bias is None else y_TN + layer.bias.float()


def rotated(x_THC: Tensor, rotations_TC: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864); rotations: cosines of the first half's components, then their sines."""
    cosine, sine = rotations_TC[:, None].chunk(2, dim=-1)
    first, second = x_THC.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def attention(q_HTC: Tensor, k_HTC: Tensor, v_HTC: Tensor, scale: float, causal: bool, window: int) -> Tensor:
    """`softmax(scale q k^T) v` (H, T, C) of one text; `window` as in `ops/attention/reference.py`."""
    length = q_HTC.shape[1]
    parts = []
    for first in range(0, length, QUERIES_AT_ONCE):
        last = min(length, first + QUERIES_AT_ONCE)
        # Keys that no query sees have shares of 0, which change no sum: leaving whole blocks of lanes out is free.
        start = max(0, first - window + 1) // LANES * LANES if window else 0
        end = last if causal else min(length, last - 1 + window) if window else length
        scores = fused_product(q_HTC[:, first:last], k_HTC[:, start:end].transpose(1, 2)) * scale
        back = torch.arange(first, last)[:, None] - torch.arange(start, end)
        seen = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
        if window:
            seen = seen & (back.abs() < window)
        scores = scores.masked_fill(~seen, -torch.inf)
        shares = exponential(scores - scores.amax(dim=-1, keepdim=True))
        parts.append(fused_product(shares, v_HTC[:, start:end]) * (1.0 / ordered_sum(shares)))
    return torch.cat(parts, dim=1)
