"""Texts to padded token batches in which a text is always padded to the same length, whatever stands beside it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

PAD_MULTIPLE = 8
TEXTS_AHEAD = 512
TOKEN_BUDGET = 2048  # on CPUs


def padded_length(tokens: int) -> int:
    """The length that a text of so many tokens is padded to: the next multiple of 8."""
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


def pad(ids: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> dict[str, Tensor]:
    """Right-pad token ids to `length` (default: the padded length of the longest): `input_ids`, `attention_mask` (B, T)."""
    length = length or padded_length(max(map(len, ids)))
    input_ids = torch.full((len(ids), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(ids), length), dtype=torch.long)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": input_ids, "attention_mask": mask}


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> tuple[list[list[int]], int]:
    """Token ids of every text, special tokens included, cut to `max_length`; and how many texts were cut."""
    whole = tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    long = [row for row, ids in enumerate(whole) if len(ids) > max_length]
    if long:
        cut = tokenizer(
            [texts[row] for row in long], add_special_tokens=True, truncation=True, max_length=max_length
        )["input_ids"]
        for row, ids in zip(long, cut, strict=True):
            whole[row] = ids
    return whole, len(long)


def length_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of at most `batch_size` texts of one padded length, longest first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for _, rows in groupby(order, key=lambda row: padded_length(lengths[row])):
        same_length = list(rows)
        for start in range(0, len(same_length), batch_size):
            yield same_length[start : start + batch_size]


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in order, in batches of at most `budget` tokens together, or of one longer text."""
    batch: list[int] = []
    tokens = 0
    for row, length in enumerate(lengths):
        if batch and tokens + length > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += length
    if batch:
        yield batch


def tokenized_ahead(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> Iterator[tuple[list[list[int]], int]]:
    """`token_ids` of consecutive groups of texts, each made in another thread while the one before is used."""
    groups = [texts[start : start + TEXTS_AHEAD] for start in range(0, len(texts), TEXTS_AHEAD)]
    if len(groups) == 1:
        yield token_ids(tokenizer, texts, max_length)
        return
    with ThreadPoolExecutor(max_workers=1) as worker:
        ahead = worker.submit(token_ids, tokenizer, groups[0], max_length)
        for group in groups[1:]:
            ready = ahead.result()
            ahead = worker.submit(token_ids, tokenizer, group, max_length)
            yield ready
        yield ahead.result()
