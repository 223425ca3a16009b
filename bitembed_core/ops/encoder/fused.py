"""The encoder on CUDA devices: the same description of a model as the native one, run with Triton's fused operations.

Tokens of all texts lie one after another, without padding, everywhere but in attention, which is torch's own. Between a norm
and a product tokens travel as int8; gate and up are one launch, query, key and value another, residuals are added where a
product ends. The states have the dtype of the model's embedding table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear
from bitembed_core.ops.encoder.architecture import (
    NO_NORM,
    Architecture,
    LayerPart,
    NormPart,
    check_ids,
    describe,
    state_of,
)
from bitembed_core.ops.norm_quantize.triton import norm_quantize
from bitembed_core.ops.ternary_linear import KERNELS
from bitembed_core.ops.ternary_linear.product import ACTIVATIONS, gated_product, ternary_product
from bitembed_core.pooling import PoolingMode

FIRST_POSITIONS = 512  # rotations are computed for twice as many whenever a text is longer


class Projections(NamedTuple):
    """Projections of one input, as the kernels take them."""

    planes: list[Tensor]  # of each, uint8 (out, J)
    together: Tensor  # one below the other
    scales: Tensor
    rows: list[int]
    gains: Tensor | None  # (projections, in), one row where all have the same
    eps: float
    bias: Tensor | None

    def quantized(self, x_MK: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of tokens for these projections."""
        return norm_quantize(x_MK, self.gains, self.eps)[:2]

    def __call__(self, x_MK: Tensor, residual_MN: Tensor | None = None) -> Tensor:
        codes, scales = self.quantized(x_MK)
        return ternary_product(
            codes, scales, self.together, self.scales, self.rows, self.bias, residual_MN, x_MK.dtype
        )


class FusedLayer(NamedTuple):
    """A block's parts; `ffn_input` is gate and up, or up alone."""

    part: LayerPart
    attention_input: Projections
    attention_output: Projections
    ffn_input: Projections
    ffn_output: Projections


class Batch(NamedTuple):
    """Texts on the device. `tokens` (M,) and `positions` (M,) lie one after another; `place` (M,) is a token's place in the
    padded (B, T)."""

    tokens: Tensor
    positions: Tensor
    place: Tensor
    first: Tensor
    last: Tensor
    lengths: Tensor
    longest: int


class FusedEncoder:
    """The fused form of a ternary `model` with kernel "triton", which must stay alive and unchanged (see `is_current`).

    Raises:
        NotDescribed: the model has something that this encoder does not compute.
    """

    any_lengths = False

    def __init__(self, model: PreTrainedModel, pooling: PoolingMode) -> None:
        self._model, self._pooling = model, pooling
        self._state = state_of(model, pooling)
        self._architecture: Architecture = describe(model)
        self._layers = [_fused(part) for part in self._architecture.layers]
        self._device = model.device
        self._rotations: dict[str, Tensor] = {}

    def is_current(self, pooling: PoolingMode) -> bool:
        """Whether the model still is what it was, and is pooled the same way."""
        return self._state == state_of(self._model, pooling)

    @torch.inference_mode()
    def encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Vectors float32 (texts, hidden), L2-normalised, of token ids; ValueError as in `check_ids`."""
        a = self._architecture
        check_ids(ids, a)
        batch = self._batch(ids)
        states_MD = a.tokens(batch.tokens)
        if a.types is not None:
            states_MD = states_MD + a.types(torch.zeros_like(batch.tokens))
        if a.positions is not None:
            states_MD = states_MD + a.positions(batch.positions)
        states_MD = normalised(states_MD, a.embedding_norm)
        for layer in self._layers:
            states_MD = self._attention(layer, states_MD, batch)
            states_MD = self._feed_forward(layer, states_MD)
        return self._pooled(normalised(states_MD, a.final_norm).float(), batch)

    def _attention(self, layer: FusedLayer, states_MD: Tensor, batch: Batch) -> Tensor:
        a, part = self._architecture, layer.part
        x_MD = states_MD if a.post_norm else normalised(states_MD, part.attention_norm)
        q, k, v = layer.attention_input(x_MD).split(layer.attention_input.rows, dim=1)
        q, k, v = (t.unflatten(1, (-1, a.head_dim)) for t in (q, k, v))
        q, k = normalised(q, part.query_norm), normalised(k, part.key_norm)
        if part.rotation is not None:
            rotation_MD = self._rotation(part.rotation, batch)
            q, k = rotated(q, rotation_MD), rotated(k, rotation_MD)
        y_MK = self._attend(q, k, v, part.window, batch)
        return self._added(
            layer.attention_output, y_MK, states_MD, part.attention_output_norm, part.attention_norm
        )

    def _feed_forward(self, layer: FusedLayer, states_MD: Tensor) -> Tensor:
        a, part, inputs = self._architecture, layer.part, layer.ffn_input
        x_MD = states_MD if a.post_norm else normalised(states_MD, part.ffn_norm)
        codes, scales = inputs.quantized(x_MD)
        biases = [None, None] if inputs.bias is None else list(inputs.bias.split(inputs.rows))
        gated = part.gate is not None
        inner_MI = gated_product(
            codes,
            scales,
            inputs.planes[0] if gated else None,
            inputs.planes[-1],
            inputs.scales if gated else inputs.scales.repeat(2),
            biases[0] if gated else None,
            biases[-1],
            ACTIVATIONS[a.activation],
            x_MD.dtype,
        )
        return self._added(layer.ffn_output, inner_MI, states_MD, part.ffn_output_norm, part.ffn_norm)

    def _added(
        self, output: Projections, x_MK: Tensor, states_MD: Tensor, own: NormPart, after: NormPart
    ) -> Tensor:
        """The states plus a sublayer's output, with the norms around the sum."""
        joined = own is NO_NORM
        total_MD = output(x_MK, states_MD) if joined else states_MD + normalised(output(x_MK), own)
        return normalised(total_MD, after) if self._architecture.post_norm else total_MD

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, batch: Batch) -> Tensor:
        """q (M, heads, width), k and v (M, kv_heads, width) -> (M, heads * width)."""
        a, (B, T) = self._architecture, (len(batch.lengths), batch.longest)

        def padded(t_MHD: Tensor) -> Tensor:
            spread = t_MHD.new_zeros(B * T, *t_MHD.shape[1:])
            spread[batch.place] = t_MHD
            return spread.view(B, T, *t_MHD.shape[1:]).transpose(1, 2)

        # Padding is on the right: in causal attention no token sees any.
        plain = a.causal and (not window or window >= T)
        y_BHTD = F.scaled_dot_product_attention(
            padded(q),
            padded(k),
            padded(v),
            attn_mask=None if plain else self._seen(window, batch),
            is_causal=plain,
            scale=a.attention_scale,
            enable_gqa=a.heads != a.kv_heads,
        )
        return y_BHTD.transpose(1, 2).reshape(B * T, -1)[batch.place]

    def _seen(self, window: int, batch: Batch) -> Tensor:
        """bool (B, 1, T, T): which keys a query sees; padding sees itself, so that no row is empty."""
        at_T = torch.arange(batch.longest, device=self._device)
        back_TT = at_T[:, None] - at_T
        seen_BTT = (at_T < batch.lengths[:, None])[:, None, :] | (back_TT == 0)
        if self._architecture.causal:
            seen_BTT = seen_BTT & (back_TT >= 0)
        if window:
            seen_BTT = seen_BTT & (back_TT.abs() < window)
        return seen_BTT[:, None]

    def _rotation(self, kind: str, batch: Batch) -> Tensor:
        """Cosines and sines (M, 1, head_dim) of the tokens."""
        table = self._rotations.get(kind)
        if table is None or len(table) < batch.longest:
            rotations = self._architecture.rotations
            assert rotations is not None
            table = rotations(kind, max(FIRST_POSITIONS, 2 * batch.longest)).to(self._device)
            self._rotations[kind] = table
        return table[batch.positions][:, None]

    def _batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        lengths = torch.tensor([len(tokens) for tokens in ids])
        longest = int(lengths.max())
        positions = torch.cat([torch.arange(len(tokens)) for tokens in ids])
        text = torch.repeat_interleave(torch.arange(len(ids)), lengths)
        ends = lengths.cumsum(0)
        flat = torch.tensor([token for tokens in ids for token in tokens])
        device = self._device
        return Batch(
            tokens=flat.to(device),
            positions=positions.to(device),
            place=(text * longest + positions).to(device),
            first=(ends - lengths).to(device),
            last=(ends - 1).to(device),
            lengths=lengths.to(device),
            longest=longest,
        )

    def _pooled(self, states_MD: Tensor, batch: Batch) -> Tensor:
        if self._pooling == "mean":
            # In the order of the tokens, which adding by index would not keep.
            vectors = torch.segment_reduce(states_MD, "mean", lengths=batch.lengths, unsafe=True)
        else:
            vectors = states_MD[batch.last if self._pooling == "last" else batch.first]
        return F.normalize(vectors, dim=-1)


def normalised(x: Tensor, norm: NormPart) -> Tensor:
    """`norm` of x (..., features), computed in float32, in x's dtype."""
    if norm.kind == "none":
        return x
    if norm.kind == "layer":
        return F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps).to(x.dtype)
    return F.rms_norm(x.float(), x.shape[-1:], norm.weight, norm.eps).to(x.dtype)


def rotated(x_MHD: Tensor, rotation_M1D: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864), computed in float32, in x's dtype."""
    cosine, sine = rotation_M1D.chunk(2, dim=-1)
    first, second = x_MHD.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x_MHD.dtype)


def _fused(part: LayerPart) -> FusedLayer:
    inputs = [part.up] if part.gate is None else [part.gate, part.up]
    return FusedLayer(
        part,
        _projections([part.query, part.key, part.value]),
        _projections([part.attention_output]),
        _projections(inputs),
        _projections([part.down]),
    )


def _projections(linears: Sequence[BitLinear]) -> Projections:
    weights, scales = zip(*(linear.two_bits(KERNELS["triton"]) for linear in linears), strict=True)
    planes = [weight.planes for weight in weights]
    norms = [linear.norm for linear in linears]
    gains = None if norms[0] is None else torch.stack([n.weight.detach().float() for n in norms if n])
    biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
    return Projections(
        planes,
        torch.cat(planes) if len(planes) > 1 else planes[0],
        torch.stack([scale.detach().float().reshape(()) for scale in scales]),
        [len(rows) for rows in planes],
        gains,
        0.0 if norms[0] is None else norms[0].eps,
        torch.cat(biases) if biases else None,
    )
