"""Tiny random models, so that no test needs a network or a real checkpoint.

Without a CUDA device Triton kernels are interpreted; Triton looks at the variable when it is first imported.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    Gemma3TextConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints.sentence_files import SentenceSettings

SPECIAL = ["<pad>", "<|endoftext|>", "<cls>", "<sep>"]
Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]

SENTENCES = [
    "A ternary weight is minus one, zero or one.",
    "How do I store a million vectors?",
    "the cat sat on the mat",
    "Contrastive learning pulls a query towards its positive.",
    "x",
    "Quantization maps many values to few, and the error is the price of the bytes saved on every row.",
    "The quick brown fox jumps over the lazy dog.",
    "Debian packages have a short and a long description.",
]


def byte_tokenizer(encoder: bool) -> PreTrainedTokenizerFast:
    """One token a byte, so that every text can be told apart; encoders get <cls> and <sep> around it."""
    alphabet = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<cls> $A <sep>", special_tokens=[("<cls>", 2), ("<sep>", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|endoftext|>",
        cls_token="<cls>",
        sep_token="<sep>",
        model_max_length=128,
    )


def tiny_model(architecture: str) -> Pair:
    """A random two-layer model of `architecture` ("bert", "qwen3", "gemma3") with its tokenizer."""
    torch.manual_seed(0)
    size = {"vocab_size": 260, "num_hidden_layers": 2, "intermediate_size": 48, "pad_token_id": 0}
    grouped = {**size, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = {
        "bert": BertConfig(**size, hidden_size=32, num_attention_heads=4, max_position_embeddings=128),
        "qwen3": Qwen3Config(**grouped, eos_token_id=1, bos_token_id=1),
        "gemma3": Gemma3TextConfig(**grouped, eos_token_id=1, bos_token_id=1, sliding_window=16),
    }[architecture]
    options = {"add_pooling_layer": False} if architecture == "bert" else {}
    model = AutoModel.from_config(config, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # random gains and biases too, so that forgetting one shows
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model, byte_tokenizer(encoder=architecture == "bert")


def tiny_embedder_of(architecture: str) -> BitEmbedder:
    """A floating-point BitEmbedder over `tiny_model(architecture)` on the CPU."""
    model, tokenizer = tiny_model(architecture)
    pooling = "mean" if architecture == "bert" else "last"
    return BitEmbedder(model, tokenizer, SentenceSettings(pooling, 128), device="cpu")


@pytest.fixture
def tiny_bert() -> Pair:
    return tiny_model("bert")


@pytest.fixture
def tiny_qwen3() -> Pair:
    return tiny_model("qwen3")


@pytest.fixture
def tiny_gemma3() -> Pair:
    return tiny_model("gemma3")


@pytest.fixture
def tiny_embedder() -> BitEmbedder:
    """Unconverted, CPU, dimension 32, mean pooling."""
    return tiny_embedder_of("bert")


@pytest.fixture(scope="session")
def make_embedder() -> Callable[[str], BitEmbedder]:
    """`make_embedder("qwen3")`: a fresh tiny embedder of an architecture."""
    return tiny_embedder_of


@pytest.fixture
def tiny_model_folder(tiny_embedder: BitEmbedder, tmp_path: Path) -> Path:
    """`tiny_embedder` saved: a sentence-transformers folder."""
    tiny_embedder.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def sentences() -> list[str]:
    return list(SENTENCES)
