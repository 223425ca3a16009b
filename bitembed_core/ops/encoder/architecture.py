"""What an encoder of our own needs to know of a transformers model: its layers as projections, norms and rotations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear
from bitembed_core.embedding_table import QuantizedEmbedding
from bitembed_core.pooling import PoolingMode

CHECKED_POSITIONS = 16
FIXED_ROTATIONS = {"default", "linear", "llama3", "yarn"}  # frequencies that do not depend on a text's length


class NotDescribed(ValueError):
    """The model has something that our encoders do not compute."""


@dataclass(frozen=True)
class NormPart:
    """A norm; weight (features,) float32, what is multiplied with."""

    kind: Literal["none", "rms", "layer"] = "none"
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0


NO_NORM = NormPart()


@dataclass(frozen=True)
class LayerPart:
    """A block. Without `gate` the feed-forward network is `down(activation(up(x)))`."""

    query: BitLinear
    key: BitLinear
    value: BitLinear
    attention_output: BitLinear
    up: BitLinear
    down: BitLinear
    gate: BitLinear | None = None
    attention_norm: NormPart = NO_NORM
    query_norm: NormPart = NO_NORM
    key_norm: NormPart = NO_NORM
    attention_output_norm: NormPart = NO_NORM
    ffn_norm: NormPart = NO_NORM
    ffn_output_norm: NormPart = NO_NORM
    window: int = 0
    rotation: str | None = None


@dataclass(frozen=True)
class Architecture:
    """A whole encoder. `rotations` maps a kind of rotation and a number of positions to (positions, head_dim): the cosines
    of half a head's components, then their sines."""

    layers: list[LayerPart]
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    attention_scale: float
    activation: str
    causal: bool
    post_norm: bool
    tokens: nn.Module
    positions: nn.Module | None = None
    types: nn.Module | None = None
    embedding_norm: NormPart = NO_NORM
    final_norm: NormPart = NO_NORM
    rotations: Callable[[str, int], Tensor] | None = None


def describe(model: PreTrainedModel) -> Architecture:
    """The description of `model`.

    Raises:
        NotDescribed: another architecture than Qwen3, Gemma 3 (text) or BERT, a variant of these, or linears in floating
            point.
    """
    known = {"qwen3": _qwen3, "gemma3_text": _gemma3, "bert": _bert}
    if model.config.model_type not in known:
        raise NotDescribed(f"architecture {model.config.model_type} is not among {', '.join(known)}")
    described = known[model.config.model_type](model)
    for layer in described.layers:
        _check_layer(layer)
    for table in (described.tokens, described.positions, described.types):
        if table is not None and not isinstance(table, nn.Embedding | QuantizedEmbedding):
            raise NotDescribed("an embedding is a module of another kind")
    return described


def state_of(model: PreTrainedModel, pooling: PoolingMode) -> tuple[object, ...]:
    """Changes whenever a weight of `model` is replaced or written to."""
    tensors = [*model.parameters(), *model.buffers()]
    versions = (0 if tensor.is_inference() else tensor._version for tensor in tensors)
    return (pooling, model.device, tuple(map(id, tensors)), tuple(versions))


def check_ids(ids: Sequence[Sequence[int]], architecture: Architecture) -> None:
    """Whether texts of token ids can be encoded.

    Raises:
        ValueError: a text without tokens, one longer than the model has positions for, or an id outside the vocabulary.
    """
    if not ids or not all(len(tokens) for tokens in ids):
        raise ValueError("there are no texts, or one of them has no tokens; such a text has no embedding")
    lowest, highest = min(map(min, ids)), max(map(max, ids))
    if lowest < 0 or highest >= rows_of(architecture.tokens):
        raise ValueError(
            f"token ids from {lowest} to {highest}, but the model has {rows_of(architecture.tokens)} tokens: "
            "the tokenizer belongs to another model"
        )
    longest, positions = max(map(len, ids)), architecture.positions
    if positions is not None and longest > rows_of(positions):
        raise ValueError(f"a text of {longest} tokens, but the model has {rows_of(positions)} positions")


def rows_of(embedding: nn.Module) -> int:
    """Rows of an embedding table, quantized or not."""
    if isinstance(embedding, QuantizedEmbedding):
        return embedding.table.shape[0]
    assert isinstance(embedding, nn.Embedding)
    return embedding.num_embeddings


def _qwen3(model: Any) -> Architecture:
    config = model.config
    if config.hidden_act != "silu":
        raise NotDescribed(f"activation {config.hidden_act}")
    _check_rotation(config.rope_parameters)
    layers = []
    for layer, kind in zip(model.layers, config.layer_types, strict=True):
        layers.append(
            LayerPart(
                **_attention_projections(layer.self_attn),
                **_gated(layer.mlp),
                attention_norm=_rms(layer.input_layernorm),
                query_norm=_rms(layer.self_attn.q_norm),
                key_norm=_rms(layer.self_attn.k_norm),
                ffn_norm=_rms(layer.post_attention_layernorm),
                window=config.sliding_window if kind == "sliding_attention" else 0,
                rotation="all",
            )
        )
    return Architecture(
        layers=layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        hidden=config.hidden_size,
        attention_scale=model.layers[0].self_attn.scaling,
        activation="silu",
        causal=True,
        post_norm=False,
        tokens=model.embed_tokens,
        final_norm=_rms(model.norm),
        rotations=_rotations(
            lambda x, positions, _kind: model.rotary_emb(x, positions),
            {"all": config.rope_parameters},
            config.head_dim,
        ),
    )


def _gemma3(model: Any) -> Architecture:
    config = model.config
    if config.hidden_activation != "gelu_pytorch_tanh":
        raise NotDescribed(f"activation {config.hidden_activation}")
    if config.attn_logit_softcapping is not None:
        raise NotDescribed("attention scores are capped")
    rope_parameters = {kind: config.rope_parameters[kind] for kind in sorted(set(config.layer_types))}
    for parameters in rope_parameters.values():
        _check_rotation(parameters)
    layers = []
    for layer, kind in zip(model.layers, config.layer_types, strict=True):
        layers.append(
            LayerPart(
                **_attention_projections(layer.self_attn),
                **_gated(layer.mlp),
                attention_norm=_rms(layer.input_layernorm, offset=1.0),
                query_norm=_rms(layer.self_attn.q_norm, offset=1.0),
                key_norm=_rms(layer.self_attn.k_norm, offset=1.0),
                attention_output_norm=_rms(layer.post_attention_layernorm, offset=1.0),
                ffn_norm=_rms(layer.pre_feedforward_layernorm, offset=1.0),
                ffn_output_norm=_rms(layer.post_feedforward_layernorm, offset=1.0),
                window=config.sliding_window if kind == "sliding_attention" else 0,
                rotation=kind,
            )
        )
    return Architecture(
        layers=layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        hidden=config.hidden_size,
        attention_scale=model.layers[0].self_attn.scaling,
        activation="gelu_tanh",
        causal=not config.use_bidirectional_attention,
        post_norm=False,
        tokens=model.embed_tokens,
        final_norm=_rms(model.norm, offset=1.0),
        rotations=_rotations(model.rotary_emb, rope_parameters, config.head_dim),
    )


def _bert(model: Any) -> Architecture:
    config = model.config
    activations = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu"}
    if config.hidden_act not in activations:
        raise NotDescribed(f"activation {config.hidden_act}")
    if getattr(config, "position_embedding_type", "absolute") != "absolute" or config.is_decoder:
        raise NotDescribed("relative positions, or a BERT that is a decoder")
    layers = []
    for layer in model.encoder.layer:
        attention = layer.attention
        layers.append(
            LayerPart(
                query=attention.self.query,
                key=attention.self.key,
                value=attention.self.value,
                attention_output=attention.output.dense,
                up=layer.intermediate.dense,
                down=layer.output.dense,
                attention_norm=_layer_norm(attention.output.LayerNorm),
                ffn_norm=_layer_norm(layer.output.LayerNorm),
            )
        )
    head_dim = config.hidden_size // config.num_attention_heads
    return Architecture(
        layers=layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=head_dim,
        hidden=config.hidden_size,
        attention_scale=head_dim**-0.5,
        activation=activations[config.hidden_act],
        causal=False,
        post_norm=True,
        tokens=model.embeddings.word_embeddings,
        positions=model.embeddings.position_embeddings,
        types=model.embeddings.token_type_embeddings,
        embedding_norm=_layer_norm(model.embeddings.LayerNorm),
    )


def _attention_projections(attention: Any) -> dict[str, Any]:
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "attention_output": "o_proj"}
    return {part: getattr(attention, name) for part, name in names.items()}


def _gated(mlp: Any) -> dict[str, Any]:
    return {"gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj}


def _rms(norm: Any, offset: float = 0.0) -> NormPart:
    eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps
    weight = norm.weight.detach().float()
    return NormPart("rms", (weight + offset if offset else weight).contiguous(), None, eps)


def _layer_norm(norm: Any) -> NormPart:
    return NormPart("layer", norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)


def _rotations(
    module: Callable[[Tensor, Tensor, str], tuple[Tensor, Tensor]],
    parameters: dict[str, dict[str, Any]],
    head_dim: int,
) -> Callable[[str, int], Tensor]:
    """Tables of the rotations of each kind. The usual ones are computed here, since powers and cosines of float32 differ
    between machines in their last bit, and with them vectors in more than that."""

    def of_the_module(kind: str, positions: int) -> Tensor:
        return _halves(*module(torch.zeros(1), torch.arange(positions)[None], kind))

    def table(kind: str, positions: int) -> Tensor:
        if parameters[kind]["rope_type"] != "default":
            return of_the_module(kind, positions)
        return rotation_table(parameters[kind]["rope_theta"], head_dim, positions)

    for kind in parameters:
        expected = of_the_module(kind, CHECKED_POSITIONS)
        if not torch.allclose(table(kind, CHECKED_POSITIONS), expected, atol=1e-5):
            raise NotDescribed("rotations of another form")
    return table


def rotation_table(base: float, head_dim: int, positions: int) -> Tensor:
    """`cos(p f_i)`, then `sin(p f_i)`, of positions p and frequencies `f_i = base^(-2 i / head_dim)` (arXiv 2104.09864).

    Frequencies and angles are rounded to float32, as in transformers, and nothing else is before the result.

    Returns:
        (positions, head_dim) float32.
    """
    powers = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    frequencies = (1.0 / base**powers).float()
    angles = (torch.arange(positions).float()[:, None] * frequencies).double()
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()


def _halves(cosine: Tensor, sine: Tensor) -> Tensor:
    half = cosine.shape[-1] // 2
    if not torch.equal(cosine[..., :half], cosine[..., half:]):
        raise NotDescribed("rotations of another form")
    return torch.cat([cosine[0, :, :half], sine[0, :, :half]], dim=-1).contiguous()


def _check_rotation(parameters: dict[str, Any]) -> None:
    kind = parameters.get("rope_type", "default")
    if kind not in FIXED_ROTATIONS or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise NotDescribed(f"rotation {kind} of a part of the head, or one that depends on the length")


def _check_layer(layer: LayerPart) -> None:
    groups = [[layer.query, layer.key, layer.value], [layer.gate or layer.up, layer.up]]
    for group in [*groups, [layer.attention_output], [layer.down]]:
        if not all(isinstance(linear, BitLinear) for linear in group):
            raise NotDescribed("some linears of its blocks are in floating point")
        if len({None if linear.norm is None else linear.norm.eps for linear in group}) > 1:
            raise NotDescribed("projections of one input have different norms")
