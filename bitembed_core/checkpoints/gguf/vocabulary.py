"""A tokenizer as GGUF metadata, and back.

llama.cpp rebuilds a tokenizer from its kind ("gpt2": byte-level BPE, "llama": sentencepiece), tokens, scores or merges. A
tokenizer that none of its kinds describes is written whole besides, as `tokenizer.huggingface.json`, with a warning.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2_SPLIT

from bitembed_core.checkpoints.gguf.container import Metadata

logger = logging.getLogger(__name__)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0
WHOLE = "tokenizer.huggingface.json"


def tokenizer_metadata(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> dict[str, Any]:
    """The keys that describe `tokenizer` to a model with a token table of `vocabulary` rows."""
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, splits = _kind(whole)
    tokens = {index: token for token, index in tokenizer.get_vocab().items() if index < vocabulary}
    rows = range(vocabulary)
    keys: dict[str, Any] = {
        "model": kind or "none",
        "pre": splits,
        "tokens": [tokens.get(row, f"[PAD{row}]") for row in rows],
        "token_type": _token_types(tokenizer, tokens, vocabulary),
    }
    merges = [
        merge if isinstance(merge, list) else merge.split(" ") for merge in whole["model"].get("merges") or ()
    ]
    if kind == "llama":
        keys |= {"scores": _scores(tokenizer, tokens, vocabulary, merges), "add_space_prefix": False}
    if kind == "gpt2" and merges:
        keys["merges"] = [" ".join(merge) for merge in merges]
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            keys[f"{key}_token_id"] = index
    sample = tokenizer("a")["input_ids"]
    keys["add_bos_token"] = sample[0] == tokenizer.bos_token_id
    keys["add_eos_token"] = sample[-1] == tokenizer.eos_token_id
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    if kind is None:
        logger.warning(
            "no runtime knows a tokenizer like this one; it is kept in the file for BitEmbedder only"
        )
        metadata[WHOLE] = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    return metadata


def read_tokenizer(path: Path, metadata: Metadata) -> PreTrainedTokenizerBase:
    """The tokenizer in the GGUF file `path`, whose metadata was read already.

    Raises:
        ValueError: the file describes none that can be rebuilt.
    """
    if WHOLE in metadata:
        tokens = metadata["tokenizer.ggml.tokens"]
        special = {
            f"{name}_token": tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
            for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))
            if f"tokenizer.ggml.{key}_token_id" in metadata
        }
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(metadata[WHOLE]), **special)
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    except (KeyError, IndexError, TypeError, OSError) as error:
        raise ValueError(f"{path} describes no tokenizer that can be rebuilt: {error}") from error
    if metadata.get("tokenizer.ggml.pre") == "qwen2":  # the file has no key for Qwen's normaliser
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    _add_ends(tokenizer, metadata)
    return tokenizer


def _add_ends(tokenizer: PreTrainedTokenizerBase, metadata: Metadata) -> None:
    """Let `tokenizer` put the tokens around a text that the file's flags ask for."""
    ends = {
        name: (getattr(tokenizer, f"{name}_token"), getattr(tokenizer, f"{name}_token_id"))
        for name in ("bos", "eos")
        if metadata.get(f"tokenizer.ggml.add_{name}_token")
    }
    if any(token is None for token, _ in ends.values()):
        raise ValueError("the GGUF file asks for a token at the end of every text that it does not name")
    if ends:
        first, last = (f"{ends[name][0]}:0 " if name in ends else "" for name in ("bos", "eos"))
        template = processors.TemplateProcessing(
            single=f"{first}$A:0 {last}".strip(), special_tokens=list(ends.values())
        )
        tokenizer.backend_tokenizer.post_processor = template


def _kind(whole: dict[str, Any]) -> tuple[str | None, str]:
    """GGUF's name for the kind of tokenizer and for how it splits text; no kind where it has none."""
    model, pre = whole["model"], whole.get("pre_tokenizer") or {}
    if model.get("type") != "BPE":
        return None, "default"
    if model.get("byte_fallback"):
        replaces = (whole.get("normalizer") or {}).get("type") == "Replace"
        return ("llama" if replaces else None), "default"
    patterns = [step.get("pattern", {}).get("Regex") for step in pre.get("pretokenizers", ())]
    if QWEN2_SPLIT in patterns:
        return "gpt2", "qwen2"
    return None, "default"


def _token_types(tokenizer: PreTrainedTokenizerBase, tokens: dict[int, str], vocabulary: int) -> list[int]:
    added = tokenizer.added_tokens_decoder

    def kind(row: int) -> int:
        if row not in tokens:
            return UNUSED
        if row in added:
            return CONTROL if added[row].special or _looks_special(tokens[row]) else USER_DEFINED
        if BYTE_TOKEN.fullmatch(tokens[row]):
            return BYTE
        return UNKNOWN if tokens[row] == tokenizer.unk_token else NORMAL

    return [kind(row) for row in range(vocabulary)]


def _looks_special(token: str) -> bool:
    return token.startswith(("<", "[")) and token.endswith((">", "]"))


def _scores(
    tokenizer: PreTrainedTokenizerBase, tokens: dict[int, str], vocabulary: int, merges: list[list[str]]
) -> list[float]:
    """Sentencepiece joins the pair whose result scores best: minus the rank of the first merge that gives a token."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        ranks.setdefault("".join(pair), rank)
    added = tokenizer.added_tokens_decoder

    def score(row: int) -> float:
        if row not in tokens:
            return UNUSED_SCORE
        return ADDED_SCORE if row in added else -float(ranks.get(tokens[row], 0))

    return [score(row) for row in range(vocabulary)]
