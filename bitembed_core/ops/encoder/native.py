"""The native encoder: token ids of many texts in, one L2-normalised vector a text out, without padding.

A text's vector does not depend on the texts beside it, on their order or on the number of threads: every token goes
through the same operations in the same order. Against the torch model the last bits differ.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear
from bitembed_core.embedding_table import QuantizedEmbedding
from bitembed_core.ops import library
from bitembed_core.ops.encoder.architecture import LayerPart, NormPart, check_ids, describe, state_of
from bitembed_core.ops.rows.native import table_operand
from bitembed_core.ops.ternary_linear import KERNELS, Norm
from bitembed_core.pooling import PoolingMode
from bitembed_core.tokenization import TOKEN_BUDGET

FIRST_POSITIONS = 512  # rotations are computed for twice as many whenever a text is longer


class NativeEncoder:
    """The native form of a ternary `model`, which must stay alive and unchanged (see `is_current`).

    Raises:
        NotDescribed: the model has something that the native operations do not compute.
        ValueError: a weight is damaged.
    """

    token_budget = TOKEN_BUDGET

    def __init__(self, model: PreTrainedModel, pooling: PoolingMode) -> None:
        self._model = model
        self._state = state_of(model, pooling)
        self._architecture = describe(model)
        self._kept: list[Tensor] = []
        self._rotations: dict[str, Tensor] = {}
        a = self._architecture
        self._layers = (library.Layer * len(a.layers))(*[self._layer(layer) for layer in a.layers])
        self._encoder = library.Encoder(
            tokens=self._table(a.tokens),
            positions=self._table(a.positions),
            types=self._table(a.types),
            embedding_norm=self._norm(a.embedding_norm),
            final_norm=self._norm(a.final_norm),
            layers=self._layers,
            layer_count=len(a.layers),
            hidden=a.hidden,
            heads=a.heads,
            kv_heads=a.kv_heads,
            head_dim=a.head_dim,
            intermediate=a.layers[0].up.out_features,
            attention_scale=a.attention_scale,
            causal=a.causal,
            post_norm=a.post_norm,
            activation=library.ACTIVATIONS[a.activation],
            pooling=library.POOLINGS[pooling],
        )

    def is_current(self, pooling: PoolingMode) -> bool:
        """Whether the model still is what it was, and is pooled the same way."""
        return self._state == state_of(self._model, pooling)

    def encode(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Vectors float32 (texts, hidden) of token ids.

        Raises:
            ValueError: a text without tokens, one longer than the model has positions for, or an id outside the vocabulary.
            MemoryError: the texts' intermediate results do not fit into memory.
        """
        check_ids(ids, self._architecture)
        lengths = [len(tokens) for tokens in ids]
        flat = torch.tensor([token for tokens in ids for token in tokens])
        self._reach(max(lengths))
        offsets = library.text_offsets(lengths)
        vectors = torch.empty(len(ids), self._architecture.hidden)
        arguments = (flat.data_ptr(), offsets.data_ptr(), len(ids), vectors.data_ptr(), library.threads())
        library.native().bitembed_encode(ctypes.byref(self._encoder), *arguments)
        return vectors

    def _reach(self, positions: int) -> None:
        """Have rotations for so many positions."""
        a = self._architecture
        if a.rotations is None or all(len(table) >= positions for table in self._rotations.values()):
            return
        for kind in self._rotations:
            self._rotations[kind] = a.rotations(kind, 2 * positions)
        for layer, part in zip(self._layers, a.layers, strict=True):
            layer.rotations = library.pointer(self._rotations[part.rotation or ""])

    def _layer(self, part: LayerPart) -> library.Layer:
        layer = library.Layer(window=part.window)
        for name in library.LINEARS:
            linear = getattr(part, name)
            setattr(layer, name, library.Linear() if linear is None else self._linear(linear))
        for name in library.NORMS:
            setattr(layer, name, self._norm(getattr(part, name)))
        rotations = self._architecture.rotations
        if part.rotation is not None and rotations is not None:
            if part.rotation not in self._rotations:
                self._rotations[part.rotation] = rotations(part.rotation, FIRST_POSITIONS)
            layer.rotations = library.pointer(self._rotations[part.rotation])
        return layer

    def _linear(self, linear: BitLinear) -> library.Linear:
        weight, scale = linear.two_bits(KERNELS["native"])
        self._kept.append(weight.panels)
        norm = None if linear.norm is None else Norm(self._keep(linear.norm.weight), linear.norm.eps)
        return weight.operand(float(scale), None if linear.bias is None else self._keep(linear.bias), norm)

    def _norm(self, part: NormPart) -> library.Norm:
        weight = None if part.weight is None else self._keep(part.weight)
        bias = None if part.bias is None else self._keep(part.bias)
        kind = library.NORM_KINDS[part.kind]
        return library.Norm(library.pointer(weight), library.pointer(bias), part.eps, kind)

    def _table(self, embedding: nn.Module | None) -> library.Table:
        if embedding is None:
            return library.Table()
        if isinstance(embedding, QuantizedEmbedding):
            self._kept += [t for t in (embedding.table, embedding.scale) if t is not None]
            return table_operand(embedding)
        assert isinstance(embedding, nn.Embedding)
        multiplier = float(getattr(embedding, "scalar_embed_scale", 1.0))
        rows = library.pointer(self._keep(embedding.weight))
        return library.Table(
            rows, None, embedding.embedding_dim, 1, library.PRECISIONS["float32"], multiplier
        )

    def _keep(self, tensor: Tensor) -> Tensor:
        """`tensor` as contiguous float32, kept alive."""
        kept = tensor.detach().float().contiguous()
        self._kept.append(kept)
        return kept
