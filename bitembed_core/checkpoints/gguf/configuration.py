"""A backbone's configuration as GGUF metadata, and back."""

import logging
from typing import Any

import numpy as np
from transformers import Gemma3TextConfig, PreTrainedConfig, Qwen3Config

from bitembed_core.checkpoints.gguf.container import Metadata
from bitembed_core.checkpoints.gguf.names import ARCHITECTURES

logger = logging.getLogger(__name__)

SLIDING_EVERY = 6  # Gemma3: every sixth layer attends to everything
GEMMA3_LOCAL_BASE = 10_000.0


def config_metadata(config: PreTrainedConfig) -> dict[str, Any]:
    """The keys that runtimes read.

    Raises:
        ValueError: an architecture or a property of it that GGUF has no key for.
    """
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"GGUF is written for {' and '.join(ARCHITECTURES)}, not for {config.model_type}: no runtime has "
            "that architecture with the projection norms of SubLN"
        )
    architecture = ARCHITECTURES[config.model_type]
    _refuse_unsupported(config)
    base, local_base = _rope_bases(config)
    head = int(config.head_dim)
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "vocab_size": config.vocab_size,
        "rope.dimension_count": head,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.freq_base": base,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    }
    if architecture == "gemma3":
        keys |= _gemma3_keys(config, local_base)
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def config_of(metadata: Metadata, vocabulary: int) -> PreTrainedConfig:
    """The configuration that `metadata` describes; `vocabulary` is the number of rows of the token table.

    Raises:
        ValueError: another architecture, a key that is missing or not a number that makes sense.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES.values():
        raise ValueError(
            f"a ternary GGUF file of architecture {architecture!r} is not read here: qwen3 and gemma3 are"
        )

    def number(key: str, default: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2**40:
            raise ValueError(
                f"the GGUF file has {value!r} under {architecture}.{key}, where a positive number belongs"
            )
        return value if isinstance(value, int) else float(str(np.float32(value)))

    heads = number("attention.head_count")
    common = {
        "vocab_size": vocabulary,
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", heads),
        "head_dim": number("attention.key_length", number("embedding_length") // heads or 1),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }
    base = {"rope_type": "default", "rope_theta": float(number("rope.freq_base", 10_000.0))}
    if architecture == "qwen3":
        return Qwen3Config(**common, rope_parameters=base)
    layers = common["num_hidden_layers"]
    local = {"rope_type": "default", "rope_theta": float(number("rope.freq_base_swa", GEMMA3_LOCAL_BASE))}
    return Gemma3TextConfig(
        **common,
        query_pre_attn_scalar=number("attention.query_pre_attn_scalar", common["head_dim"]),
        sliding_window=number("attention.sliding_window", common["max_position_embeddings"]),
        layer_types=_layer_types(metadata, layers),
        rope_parameters={"full_attention": base, "sliding_attention": local},
    )


def _gemma3_keys(config: PreTrainedConfig, local_base: float) -> dict[str, Any]:
    if config.query_pre_attn_scalar != config.head_dim:
        logger.warning(
            "query_pre_attn_scalar is %s and the heads have %s dimensions: llama.cpp scales attention by the latter "
            "and would give other embeddings",
            config.query_pre_attn_scalar,
            config.head_dim,
        )
    keys: dict[str, Any] = {"attention.query_pre_attn_scalar": int(config.query_pre_attn_scalar)}
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    if any(sliding):
        keys |= {"attention.sliding_window": int(config.sliding_window), "rope.freq_base_swa": local_base}
        if sliding != _usual_sliding(len(sliding)):
            keys["attention.sliding_window_pattern"] = sliding
    return keys


def _layer_types(metadata: Metadata, layers: int) -> list[str]:
    pattern = metadata.get("gemma3.attention.sliding_window_pattern")
    sliding = [False] * layers
    if "gemma3.attention.sliding_window" in metadata:
        sliding = _usual_sliding(
            layers, pattern if isinstance(pattern, int) and pattern > 0 else SLIDING_EVERY
        )
    if isinstance(pattern, list):
        sliding = [bool(one) for one in pattern]
    if len(sliding) != layers:
        raise ValueError(f"the GGUF file has {layers} layers and says of {len(sliding)} whether they slide")
    return ["sliding_attention" if one else "full_attention" for one in sliding]


def _usual_sliding(layers: int, every: int = SLIDING_EVERY) -> list[bool]:
    return [(layer + 1) % every != 0 for layer in range(layers)]


def _rope_bases(config: PreTrainedConfig) -> tuple[float, float]:
    rope = config.rope_parameters
    full = rope.get("full_attention", rope)
    local = rope.get("sliding_attention", rope)
    for one in (full, local):
        if one.get("rope_type", "default") != "default":
            raise ValueError(f"rotary embedding of type {one['rope_type']!r} is not written to GGUF here")
    return float(full["rope_theta"]), float(local["rope_theta"])


def _refuse_unsupported(config: PreTrainedConfig) -> None:
    for key in ("attention_bias", "use_bidirectional_attention", "use_sliding_window"):
        if getattr(config, key, False):
            raise ValueError(
                f"a model with {key} cannot be written to GGUF: its architecture there has no place for it"
            )
