"""Bytes of a model by what they are spent on: in floating point, and packed with each kind of token table."""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import nn
from transformers import PreTrainedModel

from bitembed_core.bitlinear import BitLinear
from bitembed_core.conversion import bit_linears
from bitembed_core.embedding_table import (
    TABLE_PRECISIONS,
    QuantizedEmbedding,
    TablePrecision,
    embedding_tables,
)
from bitembed_core.ternary_packing import packed_width

PARTS = ("token table", "other tables", "weight matrices", "norms and biases")
SCALE_BYTES = 4  # of a packed matrix


def bytes_by_part(model: PreTrainedModel) -> dict[str, dict[str, int]]:
    """Form of the model -> part of it -> bytes, for a converted `model`.

    The floating-point forms are the backbone before conversion, without the norms that conversion added. The packed ones
    are what `save_pretrained(layout="packed", token_table=...)` writes, headers aside.
    """
    forms = {
        f"{name}, before": _floating_point(model, size) for name, size in (("float32", 4), ("float16", 2))
    }
    return forms | {f"packed, {table} table": _packed(model, table) for table in TABLE_PRECISIONS}


def _floating_point(model: PreTrainedModel, size: int) -> dict[str, int]:
    added = {id(m.norm.weight) for _, m in bit_linears(model) if m.norm is not None}
    rest = [p for p in _small(model) if id(p) not in added]
    tables = {name: size * module.weight.numel() for name, module in embedding_tables(model).items()}
    linears = sum(size * m.out_features * m.in_features for _, m in bit_linears(model))
    return _parts(model, tables, linears, size * sum(p.numel() for p in rest))


def _packed(model: PreTrainedModel, precision: TablePrecision) -> dict[str, int]:
    tables = {}
    for name, module in embedding_tables(model).items():
        with torch.device("meta"):
            stored = QuantizedEmbedding.like(nn.Embedding(*module.weight.shape), precision)
        tables[name] = sum(t.nbytes for t in chain(stored.parameters(), stored.buffers()))
    linears = sum(m.out_features * packed_width(m.in_features) + SCALE_BYTES for _, m in bit_linears(model))
    return _parts(model, tables, linears, 2 * sum(p.numel() for p in _small(model)))


def _small(model: PreTrainedModel) -> Iterable[nn.Parameter]:
    """Every parameter that is neither in a table nor the weight of a ternary layer."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, nn.Embedding) and not (
                isinstance(module, BitLinear) and name == "weight"
            ):
                yield parameter


def _parts(model: PreTrainedModel, tables: dict[str, int], linears: int, small: int) -> dict[str, int]:
    tokens = next(name for name, m in model.named_modules() if m is model.get_input_embeddings())
    others = sum(size for name, size in tables.items() if name != tokens)
    return dict(zip(PARTS, (tables[tokens], others, linears, small), strict=True))
