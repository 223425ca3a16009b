"""Embedding tables in few bytes: rows of float16, int8 or int4, the integers with float16 scales for groups of a row.

In a small ternary model the token table is most of the file. A row is read whole and rarely, so it is stored as it lies on
disk and decoded when a token asks for it:

- `float16`: `table` float16 (V, D).
- `int8`: `table` int8 (V, D) in -127 to 127; `scale` is `max|group| / 127` over groups of 32 values.
- `int4`: `table` uint8 (V, ceil(D / 2)), codes -7 to 7 stored as `code + 8`, the first of two in the low half of a byte;
  `scale` over groups of 128 values is the one, among those that clip the largest values more or less, with the least
  squared error.

`value = code * scale`. Scales are rounded to float16 before the codes are chosen, so their rounding costs nothing. One
scale for a whole row is not enough: Gemma 3 has a few dimensions ten times as large as the others, which leave these few
levels (relative error of int8 rows 1.9 %, of groups of 32 below 0.3 %).
"""

from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bitembed_core.ops import library

TablePrecision = Literal["float16", "int8", "int4"]
TABLE_PRECISIONS: tuple[TablePrecision, ...] = get_args(TablePrecision)
STORED = {"float16": torch.float16, "int8": torch.int8, "int4": torch.uint8}
LARGEST_CODE = {"int8": 127, "int4": 7}
NIBBLE_OFFSET = 8
CLIP_SHARES = torch.linspace(1.0, 0.5, 21)  # of a group's largest value
GROUP = {"int8": 32, "int4": 128}
FEW_ROWS = 256  # smaller tables (token types) stay in float16: there is nothing to gain
NIBBLE_ONES, NIBBLE_TOPS = 0x1111111111111111, 0x8888888888888888 - (1 << 64)
ROWS_AT_ONCE = 1 << 10  # what is made of them stays in the cache


class QuantizedEmbedding(nn.Module):
    """`nn.Embedding` whose table stays as it is stored; ids (...,) -> float32 (..., D). For inference only.

    Args:
        rows, dimension: as in `nn.Embedding`.
        precision: how the table is stored.
        multiplier: applied to what is looked up (Gemma 3: the square root of the hidden size).
    """

    table: nn.Parameter
    scale: Tensor | None
    precision: TablePrecision

    def __init__(
        self,
        rows: int,
        dimension: int,
        precision: TablePrecision,
        multiplier: float = 1.0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        _known(precision)
        self.dimension, self.precision, self.multiplier = dimension, precision, multiplier
        width = -(-dimension // 2) if precision == "int4" else dimension
        table = torch.empty(rows, width, dtype=STORED[precision], device=device)
        self.table = nn.Parameter(table, requires_grad=False)
        scale = None
        if precision != "float16":
            groups = -(-dimension // GROUP[precision])
            scale = torch.empty(rows, groups, dtype=torch.float16, device=device)
        self.register_buffer("scale", scale)

    @classmethod
    def like(cls, embedding: nn.Embedding, precision: TablePrecision) -> Self:
        """An empty table in place of `embedding`, on its device; a table of few rows is stored as float16."""
        multiplier = float(getattr(embedding, "scalar_embed_scale", 1.0))
        own = precision if embedding.num_embeddings >= FEW_ROWS else "float16"
        return cls(
            embedding.num_embeddings, embedding.embedding_dim, own, multiplier, embedding.weight.device
        )

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding, precision: TablePrecision) -> Self:
        """`embedding` rounded to `precision`.

        Raises:
            ValueError: the table has values that are NaN, infinite or too large for float16.
        """
        module = cls.like(embedding, precision)
        table, scale = quantize_table(embedding.weight.detach(), module.precision)
        module.table = nn.Parameter(table, requires_grad=False)
        module.scale = scale
        return module

    def rounded(self, precision: TablePrecision) -> tuple[Tensor, Tensor | None]:
        """What a table of `precision` stores of this one's values; a table of few rows stays float16.

        Raises:
            ValueError: `precision` is a finer one, for which the values are gone.
        """
        own = _known(precision) if len(self.table) >= FEW_ROWS else "float16"
        if own == self.precision:
            return self.table, self.scale
        if TABLE_PRECISIONS.index(own) < TABLE_PRECISIONS.index(self.precision):
            raise ValueError(
                f"the embedding table is stored as {self.precision} and cannot become {own} again; ask for {self.precision} "
                "or less, or take the model from before it was rounded"
            )
        parts = []
        for start in range(0, len(self.table), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            scale = None if self.scale is None else self.scale[rows]
            parts.append(
                quantize_table(decode_rows(self.table[rows], scale, self.precision, self.dimension), own)
            )
        scales = [scale for _, scale in parts if scale is not None]
        return torch.cat([table for table, _ in parts]), torch.cat(scales)

    def forward(self, ids: Tensor) -> Tensor:
        scale = None if self.scale is None else self.scale[ids]
        return decode_rows(self.table[ids], scale, self.precision, self.dimension) * self.multiplier

    def extra_repr(self) -> str:
        return f"{self.table.shape[0]}, {self.dimension}, precision={self.precision}"


def _known(precision: TablePrecision) -> TablePrecision:
    if precision not in TABLE_PRECISIONS:
        raise ValueError(f"no table precision {precision!r}; choose one of {', '.join(TABLE_PRECISIONS)}")
    return precision


def quantize_table(weight: Tensor, precision: TablePrecision) -> tuple[Tensor, Tensor | None]:
    """Table (V, D), floating point -> what `QuantizedEmbedding` stores: `table`, and `scale` float16 (V, G) or None.

    Raises:
        ValueError: values that are NaN, infinite or too large for float16.
    """
    if not torch.isfinite(weight.half()).all():
        raise ValueError("the embedding table has values that are NaN, infinite or too large for float16")
    if precision == "float16":
        return weight.half(), None
    parts = [_quantize_rows(rows.float(), precision) for rows in weight.split(ROWS_AT_ONCE)]
    return torch.cat([table for table, _ in parts]), torch.cat([scale for _, scale in parts])


def decode_rows(stored: Tensor, scale: Tensor | None, precision: TablePrecision, dimension: int) -> Tensor:
    """float32 (..., D) of stored rows (..., width) and their scales (..., G)."""
    if precision == "int4":
        halves = torch.stack([stored & 15, stored >> 4], dim=-1).flatten(-2)[..., :dimension]
        stored = halves.to(torch.int8) - NIBBLE_OFFSET
    values = stored.float()
    if scale is None:
        return values
    return values * scale.float().repeat_interleave(GROUP[precision], dim=-1)[..., :dimension]


def check_codes(stored: Tensor, precision: TablePrecision) -> None:
    """Look for codes outside the alphabet: -128 for int8, the half byte 0 for int4, in stored bytes of any shape.

    Raises:
        ValueError: there is one.
    """
    if precision == "float16":
        return
    bad = (stored.view(torch.int8) == -128).any() if precision == "int8" else any_zero_nibble(stored)
    if bad:
        raise ValueError(f"the embedding table contains a value that is no {precision} code: it is damaged")


def any_zero_nibble(stored: Tensor) -> Tensor:
    """Whether a half byte of the bytes `stored` is 0, looking at sixteen of them at once.

    Subtracting 1 from every half byte borrows into its highest bit only where that bit was 0 before and the half byte was
    0, or a lower one was.
    """
    flat = stored.view(torch.uint8).flatten()
    if flat.device.type == "cpu" and library.available():
        found = library.native().bitembed_any_zero_nibble(library.pointer(flat), len(flat), library.threads())
        return torch.tensor(bool(found))
    whole = len(flat) // 8 * 8
    words = flat[:whole].view(torch.int64)
    rest = flat[whole:]
    found = ((words - NIBBLE_ONES) & ~words & NIBBLE_TOPS).any()
    return found | ((rest & 15) == 0).any() | (rest < 16).any()


def embedding_tables(model: PreTrainedModel) -> dict[str, nn.Embedding]:
    """Name -> embedding table in floating point, for every one of `model`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}


def quantized_tables(model: nn.Module) -> dict[str, QuantizedEmbedding]:
    """Name -> embedding table that is stored in few bits."""
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantizedEmbedding)}


def quantize_tables(model: PreTrainedModel, precision: TablePrecision) -> PreTrainedModel:
    """Round every embedding table of `model` to `precision`, in place; returns `model`.

    Raises:
        ValueError: a table is stored in less than that already.
    """
    for name, embedding in embedding_tables(model).items():
        model.set_submodule(name, QuantizedEmbedding.from_embedding(embedding, precision))
    for stored in quantized_tables(model).values():
        table, stored.scale = stored.rounded(precision)
        stored.table = nn.Parameter(table, requires_grad=False)
        stored.precision = precision if stored.scale is not None else "float16"
    return model


@torch.no_grad()
def round_token_table(model: PreTrainedModel, precision: TablePrecision) -> None:
    """Round the token table of `model` to values that a table of `precision` stores, in place; it stays in floating point.

    A model that is trained with these values, the table held as it is, keeps its embeddings when it is stored in
    `precision`: rounding once more chooses the same scales and codes.

    Raises:
        ValueError: an unknown precision, or values that are NaN, infinite or too large for float16.
    """
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    own = QuantizedEmbedding.like(embedding, _known(precision)).precision
    table, scale = quantize_table(embedding.weight, own)
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        scales = None if scale is None else scale[rows]
        embedding.weight[rows] = decode_rows(table[rows], scales, own, embedding.embedding_dim)


def _quantize_rows(rows: Tensor, precision: TablePrecision) -> tuple[Tensor, Tensor]:
    largest_code, dimension = LARGEST_CODE[precision], rows.shape[1]
    groups = F.pad(rows, (0, -dimension % GROUP[precision])).unflatten(1, (-1, GROUP[precision]))
    largest = groups.abs().amax(dim=-1)
    if precision == "int8":
        scale = (largest / largest_code).half()
        return _codes(groups, scale, largest_code).flatten(1)[:, :dimension].to(torch.int8), scale
    best_scale = torch.zeros_like(largest, dtype=torch.float16)
    best_error = torch.full_like(largest, float("inf"))
    for share in CLIP_SHARES.tolist():
        scale = (largest * share / largest_code).half()
        error = (
            (_codes(groups, scale, largest_code) * scale.float()[..., None] - groups).square_().sum(dim=-1)
        )
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
    codes = _codes(groups, best_scale, largest_code).flatten(1)[:, :dimension]
    halves = F.pad((codes + NIBBLE_OFFSET).to(torch.uint8), (0, dimension % 2), value=NIBBLE_OFFSET)
    return halves[:, 0::2] | halves[:, 1::2] << 4, best_scale


def _codes(groups: Tensor, scale: Tensor, largest_code: int) -> Tensor:
    divisor = torch.where(scale > 0, scale, 1).float()[..., None]
    return (groups / divisor).round_().clamp_(-largest_code, largest_code)
