"""Tiny models of the shape the published runtime can multiply, with tokenizers of the kinds it knows."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModel
from transformers.models.gemma.tokenization_gemma import GemmaTokenizer
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.sentence_files import SentenceSettings

TEXTS = [
    "a ternary weight",
    "Where do the bytes go?",
    "caf\u00e9 \u4e2d\u6587 1234",
    "x",
    "two  spaces\n\nand lines",
]


def sentencepiece_tokenizer() -> GemmaTokenizer:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted(set("abcdefghijklmnopqrstuvwxyzW?\u2581"))
    joined = [("t", "e"), ("te", "r"), ("a", "r"), ("\u2581", "w"), ("\u2581", "\u2581"), ("t", "h")]
    vocab = {
        piece: index for index, piece in enumerate([*pieces, *letters, *("".join(pair) for pair in joined)])
    }
    tokenizer = GemmaTokenizer(vocab=vocab, merges=joined)
    return tokenizer


def byte_level_tokenizer() -> Qwen2Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = [("t", "e"), ("te", "r"), ("\u0120", "w")]
    vocab = {token: index for index, token in enumerate([*alphabet, *("".join(pair) for pair in joined)])}
    vocab["<|endoftext|>"] = len(vocab)
    return Qwen2Tokenizer(vocab=vocab, merges=joined)


def published_shape(architecture: str, sites: str = "all", hidden: int = 128) -> BitEmbedder:
    """A tiny model with rows that the published runtime can multiply, and a tokenizer of its kind."""
    torch.manual_seed(0)
    tokenizer = byte_level_tokenizer() if architecture == "qwen3" else sentencepiece_tokenizer()
    size = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": hidden,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model_type = {"qwen3": "qwen3", "gemma3": "gemma3_text"}[architecture]
    extra = {"query_pre_attn_scalar": hidden, "sliding_window": 8} if architecture == "gemma3" else {}
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **size, **extra)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    embedder = BitEmbedder(model, tokenizer, SentenceSettings("last", 128), device="cpu")
    embedder.convert(sites, TEXTS)
    return embedder


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def make_published() -> Callable[..., BitEmbedder]:
    """`make_published("qwen3", sites="all", hidden=128)`: a converted embedder with seven layers."""
    return published_shape
