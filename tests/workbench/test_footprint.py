"""Bytes by part against the shapes of the tiny models, and against the files that are written."""

import pytest
from safetensors import safe_open

from workbench.footprint import PARTS, bytes_by_part


def test_bert_by_hand(tiny_embedder):
    """d = 32, feed-forward 48, 2 layers, 260 tokens, 128 positions, 2 token types."""
    tiny_embedder.convert("all")
    forms = bytes_by_part(tiny_embedder.model)
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 48)
    biases = 2 * (5 * 32 + 48)
    norms = 2 * 32 + 2 * 2 * 2 * 32  # gain and bias: behind the embeddings, two in each layer
    added = 2 * (5 * 32 + 48)  # a gain in every projection, as wide as its input
    before = (260 * 32, 130 * 32, weights, biases + norms)
    assert forms["float32, before"] == dict(zip(PARTS, (4 * n for n in before), strict=True))
    assert forms["float16, before"] == dict(zip(PARTS, (2 * n for n in before), strict=True))
    packed = (weights // 4 + 4 * 12, 2 * (biases + norms + added))
    small_tables = 2 * 130 * 32  # tables of few rows stay in float16
    tables = {"float16": 2 * 260 * 32, "int8": 260 * (32 + 2), "int4": 260 * (16 + 2)}
    for name, size in tables.items():
        expected = dict(zip(PARTS, (size, small_tables, *packed), strict=True))
        assert forms[f"packed, {name} table"] == expected


@pytest.mark.parametrize("architecture", ["bert", "gemma3", "qwen3"])
@pytest.mark.parametrize("table", ["float16", "int4"])
def test_packed_files_hold_what_is_said(make_embedder, tmp_path, architecture, table):
    embedder = make_embedder(architecture)
    embedder.convert("output")
    embedder.save_pretrained(tmp_path / "packed", layout="packed", token_table=table)
    with safe_open(tmp_path / "packed" / "model.safetensors", framework="pt") as file:
        written = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert sum(bytes_by_part(embedder.model)[f"packed, {table} table"].values()) == written
