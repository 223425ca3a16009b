"""The encoder on CUDA devices: the same description of a model as the native one, run with Triton's fused operations.

Tokens of all texts lie one after another, without padding, in attention too. Between a norm and a product tokens travel as
int8; gate and up are one launch, query, key and value another; what lies between two products is one launch. Small batches
are launches most of all, so they run as CUDA graphs. The states have the dtype of the model's embedding table.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear
from bitembed_core.ops.attention.triton import Heads, attention, block_queries, prepare_heads, query_blocks
from bitembed_core.ops.encoder.architecture import (
    NO_NORM,
    LayerPart,
    NormPart,
    NotDescribed,
    check_ids,
    describe,
    state_of,
)
from bitembed_core.ops.encoder.graphs import Graphs
from bitembed_core.ops.norm_quantize.joined import join
from bitembed_core.ops.norm_quantize.triton import norm_quantize
from bitembed_core.ops.ternary_linear import KERNELS
from bitembed_core.ops.ternary_linear.product import ACTIVATIONS, gated_product, ternary_product
from bitembed_core.pooling import PoolingMode

FIRST_POSITIONS = 512  # rotations are computed for twice as many whenever a text is longer
GRAPHED_TOKENS = 16_384  # above, kernels take longer than their launches


class Codes(NamedTuple):
    """Tokens as projections take them: int8 (P, M, K) and scales (P, M)."""

    values: Tensor
    scales: Tensor


class Projections(NamedTuple):
    """Projections of one input, as the kernels take them."""

    planes: list[Tensor]  # of each, uint8 (out, J)
    together: Tensor  # one below the other
    scales: Tensor
    rows: list[int]
    gains: Tensor | None  # (projections, in), one row where all have the same
    eps: float
    bias: Tensor | None

    def product(self, codes: Codes, dtype: torch.dtype, residual_MN: Tensor | None = None) -> Tensor:
        """The projections of tokens side by side, plus the residual."""
        return ternary_product(*codes, self.together, self.scales, self.rows, self.bias, residual_MN, dtype)


class Reader(NamedTuple):
    """Projections that read the states, and the norm before them; `projections` None reads nothing."""

    norm: NormPart = NO_NORM
    projections: Projections | None = None


class FusedLayer(NamedTuple):
    """A block's parts; `ffn` is gate and up, or up alone, `head_norms` the weights of the queries' and keys' norms."""

    part: LayerPart
    attention: Projections
    attention_output: Projections
    ffn: Projections
    ffn_output: Projections
    head_norms: Tensor | None


class Batch(NamedTuple):
    """Texts as one row of tokens.

    `inputs` int32: M tokens, their M positions, and N blocks of queries (`query_blocks`) as three rows. Behind the texts
    there may be tokens that belong to none, and empty blocks, so that few sizes occur.
    """

    inputs: NDArray[np.int32]
    tokens: int
    blocks: int
    lengths: NDArray[np.int64]


class FusedEncoder:
    """The fused form of a ternary `model` with kernel "triton", which must stay alive and unchanged (see `is_current`).

    Raises:
        NotDescribed: the model has something that this encoder does not compute.
    """

    token_budget = GRAPHED_TOKENS

    def __init__(self, model: PreTrainedModel, pooling: PoolingMode) -> None:
        self._model, self._pooling = model, pooling
        self._state = state_of(model, pooling)
        a = self._architecture = describe(model)
        self._heads = Heads(a.heads, a.kv_heads, a.head_dim)
        self._layers = [_fused(part) for part in a.layers]
        self._device = model.device
        self._queries = block_queries(a.head_dim, self._device)
        self._rotations: dict[str, Tensor] = {}
        self._graphs = Graphs(self._states)

    def is_current(self, pooling: PoolingMode) -> bool:
        """Whether the model still is what it was, and is pooled the same way."""
        return self._state == state_of(self._model, pooling)

    @torch.inference_mode()
    def encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Vectors float32 (texts, hidden), L2-normalised, of token ids; ValueError as in `check_ids`."""
        check_ids(ids, self._architecture)
        batch = batch_of(ids, self._queries)
        self._rotate_up_to(int(batch.lengths.max()))
        inputs = torch.from_numpy(batch.inputs).to(self._device)
        graphed = self._device.type == "cuda" and batch.tokens <= GRAPHED_TOKENS
        run = self._graphs if graphed else self._states
        with torch.cuda.device_of(inputs):  # on which kernels are launched and graphs recorded
            return self._pooled(run(inputs, batch.tokens, batch.blocks), batch.lengths)

    def _states(self, inputs: Tensor, tokens: int, blocks: int) -> Tensor:
        """The last states float32 (tokens, hidden) of a batch's `inputs`."""
        a = self._architecture
        ids_M, positions_M, blocks_3N = inputs.split([tokens, tokens, 3 * blocks])
        states_MD = a.tokens(ids_M)
        if a.types is not None:
            states_MD = states_MD + a.types(torch.zeros_like(ids_M))
        if a.positions is not None:
            states_MD = states_MD + a.positions(positions_M)
        states_MD = normalised(states_MD, a.embedding_norm)
        readers = [self._reader(layer.part.attention_norm, layer.attention) for layer in self._layers]
        states_MD, codes = _joined(states_MD, None, NO_NORM, NO_NORM, readers[0])
        for layer, following in zip(self._layers, [*readers[1:], Reader()], strict=True):
            part, dtype = layer.part, states_MD.dtype
            qkv_MN = layer.attention.product(codes, dtype)
            rotations = None if part.rotation is None else self._rotations[part.rotation]
            prepare_heads(qkv_MN, self._heads, layer.head_norms, part.query_norm.eps, rotations, positions_M)
            y_MK = attention(
                qkv_MN, blocks_3N.view(3, blocks), self._heads, a.attention_scale, a.causal, part.window
            )
            ffn = self._reader(part.ffn_norm, layer.ffn)
            states_MD, codes = self._added(
                layer.attention_output, y_MK, states_MD, part.attention_output_norm, part.attention_norm, ffn
            )
            inner_MI = self._inner(layer, codes, dtype)
            states_MD, codes = self._added(
                layer.ffn_output, inner_MI, states_MD, part.ffn_output_norm, part.ffn_norm, following
            )
        return normalised(states_MD, a.final_norm).float()

    def _inner(self, layer: FusedLayer, codes: Codes, dtype: torch.dtype) -> Tensor:
        """What the feed-forward network has between its products."""
        inputs, gated = layer.ffn, layer.part.gate is not None
        biases = [None, None] if inputs.bias is None else list(inputs.bias.split(inputs.rows))
        return gated_product(
            *codes,
            inputs.planes[0] if gated else None,
            inputs.planes[-1],
            inputs.scales if gated else inputs.scales.repeat(2),
            biases[0] if gated else None,
            biases[-1],
            ACTIVATIONS[self._architecture.activation],
            dtype,
        )

    def _reader(self, norm: NormPart, projections: Projections) -> Reader:
        return Reader(NO_NORM if self._architecture.post_norm else norm, projections)

    def _added(
        self,
        output: Projections,
        x_MK: Tensor,
        states_MD: Tensor,
        own: NormPart,
        norm: NormPart,
        reader: Reader,
    ) -> tuple[Tensor, Codes]:
        """The states plus a sublayer's output, with the norms around the sum, and what reads them next."""
        after = norm if self._architecture.post_norm else NO_NORM
        with_product = own is NO_NORM
        codes = Codes(*norm_quantize(x_MK, output.gains, output.eps)[:2])
        y_MD = output.product(codes, states_MD.dtype, states_MD if with_product else None)
        return _joined(y_MD, None if with_product else states_MD, own, after, reader)

    def _rotate_up_to(self, positions: int) -> None:
        """Have cosines and sines (positions, head_dim) of as many positions, for each kind of rotation."""
        kinds = {layer.part.rotation for layer in self._layers} - {None}
        if not kinds or positions <= min((len(table) for table in self._rotations.values()), default=0):
            return
        rotations, count = self._architecture.rotations, max(FIRST_POSITIONS, 2 * positions)
        assert rotations is not None
        self._rotations = {kind: rotations(kind, count).float().to(self._device) for kind in kinds if kind}
        self._graphs = Graphs(self._states)  # the others read the tables that were

    def _pooled(self, states_MD: Tensor, lengths: NDArray[np.int64]) -> Tensor:
        ends = lengths.cumsum()
        if self._pooling == "mean":
            # In the order of the tokens, which adding by index would not keep.
            device_lengths = torch.from_numpy(lengths).to(self._device)
            states_MD = states_MD[: int(ends[-1])]
            vectors = torch.segment_reduce(states_MD, "mean", lengths=device_lengths, unsafe=True)
        else:
            rows = ends - 1 if self._pooling == "last" else ends - lengths
            vectors = states_MD[torch.from_numpy(rows).to(self._device)]
        return F.normalize(vectors, dim=-1)


def batch_of(ids: Sequence[Sequence[int]], queries: int) -> Batch:
    """Texts as one row, filled up to a size of few, in blocks of `queries`."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    tokens = int(lengths.sum())
    blocks_3N = query_blocks(lengths, queries)
    padded, blocks = tokens, blocks_3N.shape[1]
    if tokens <= GRAPHED_TOKENS:
        padded, blocks = filled(tokens), 1 << (blocks - 1).bit_length()
    inputs = np.zeros(2 * padded + 3 * blocks, np.int32)
    inputs[:tokens] = np.fromiter(chain.from_iterable(ids), np.int32, tokens)
    inputs[padded : padded + tokens] = np.arange(tokens) - np.repeat(lengths.cumsum() - lengths, lengths)
    inputs[2 * padded :].reshape(3, blocks)[:, : blocks_3N.shape[1]] = blocks_3N
    return Batch(inputs, padded, blocks, lengths)


def filled(tokens: int) -> int:
    """The next of eight sizes between powers of two, a multiple of 16."""
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 4))
    return -(-tokens // step) * step


def normalised(x: Tensor, norm: NormPart) -> Tensor:
    """`norm` of x (..., features), computed in float32, in x's dtype."""
    if norm.kind == "none":
        return x
    if norm.kind == "layer":
        return F.layer_norm(x.float(), x.shape[-1:], norm.weight, norm.bias, norm.eps).to(x.dtype)
    return F.rms_norm(x.float(), x.shape[-1:], norm.weight, norm.eps).to(x.dtype)


def _joined(
    x_MD: Tensor, residual_MD: Tensor | None, own: NormPart, after: NormPart, reader: Reader
) -> tuple[Tensor, Codes]:
    gains, eps = (None, 0.0) if reader.projections is None else reader.projections[4:6]
    quantizes = reader.projections is not None
    states_MD, *codes = join(x_MD, residual_MD, own, after, reader.norm, gains, eps, quantizes)
    return states_MD, Codes(*codes)


def _fused(part: LayerPart) -> FusedLayer:
    head_norms = None
    if part.query_norm is not NO_NORM:
        if part.query_norm.eps != part.key_norm.eps:
            raise NotDescribed("the norms of queries and keys have different epsilons")
        weights = [norm.weight for norm in (part.query_norm, part.key_norm)]
        head_norms = torch.stack([weight for weight in weights if weight is not None])
    return FusedLayer(
        part,
        _projections([part.query, part.key, part.value]),
        _projections([part.attention_output]),
        _projections([part.up] if part.gate is None else [part.gate, part.up]),
        _projections([part.down]),
        head_norms,
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
