"""Tensor names of Qwen3 and Gemma3 in transformers and in GGUF, the projection norms of SubLN included."""

ARCHITECTURES = {"qwen3": "qwen3", "gemma3_text": "gemma3"}  # transformers' model type -> GGUF's architecture

OUTSIDE = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
PROJECTIONS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMS = {"input_layernorm": "attn_norm", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
OWN_NORMS = {
    "qwen3": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}


def gguf_names(architecture: str, layers: int) -> dict[str, str]:
    """Transformers' tensor name -> GGUF's, for every tensor that a model of `architecture` can have."""
    names = dict(OUTSIDE)
    norms = NORMS | OWN_NORMS[architecture]
    for layer in range(layers):
        ours, theirs = f"layers.{layer}", f"blk.{layer}"
        names |= {f"{ours}.{a}.weight": f"{theirs}.{b}.weight" for a, b in {**PROJECTIONS, **norms}.items()}
        names |= {f"{ours}.{a}.norm.weight": f"{theirs}.{b}_norm_in.weight" for a, b in PROJECTIONS.items()}
    return names


def is_offset_norm(architecture: str, name: str) -> bool:
    """Whether the norm with transformers' `name` is kept as `weight - 1` there and as `weight` in GGUF (Gemma3's own)."""
    return architecture == "gemma3" and not any(f"{p}.norm." in name for p in PROJECTIONS)
