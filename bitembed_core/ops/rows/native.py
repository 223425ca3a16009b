"""Table look-up and pooling by the native library."""

import ctypes

import torch
from torch import Tensor

from bitembed_core.embedding_table import GROUP, QuantizedEmbedding
from bitembed_core.ops import library
from bitembed_core.pooling import PoolingMode


def look_up(embedding: QuantizedEmbedding, ids: Tensor) -> Tensor:
    """As `embedding(ids)`: float32 (n, dimension) of int64 ids (n,); IndexError when one is no row."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < embedding.table.shape[0]:
        raise IndexError(
            f"ids from {ids.min()} to {ids.max()}, the table has {embedding.table.shape[0]} rows"
        )
    y = torch.empty(len(ids), embedding.dimension)
    table = table_operand(embedding)
    library.native().bitembed_lookup(
        ctypes.byref(table), library.pointer(ids), len(ids), y.data_ptr(), library.threads()
    )
    return y


def table_operand(embedding: QuantizedEmbedding) -> library.Table:
    """What the library takes; valid as long as `embedding` is."""
    return library.Table(
        library.pointer(embedding.table.detach()),
        library.pointer(embedding.scale),
        embedding.dimension,
        GROUP.get(embedding.precision, 1),
        library.PRECISIONS[embedding.precision],
        embedding.multiplier,
    )


def pool(states: Tensor, offsets: Tensor, mode: PoolingMode) -> Tensor:
    """L2-normalised pooled states (texts, D) of states (tokens, D), texts one after another (`library.text_offsets`)."""
    y = torch.empty(len(offsets) - 1, states.shape[1])
    no_norm = library.Norm()
    library.native().bitembed_pool(
        library.pointer(states),
        library.pointer(offsets),
        len(offsets) - 1,
        states.shape[1],
        ctypes.byref(no_norm),
        library.POOLINGS[mode],
        y.data_ptr(),
        library.threads(),
    )
    return y
