"""Exact search over packed embeddings on a device: cosines of queries with stored codes, and the best of them.

Queries stay in floating point, or are rounded to int8 (Eq 2), which makes the products integer. Documents are int8, int4,
int2, binary or fitted codes and are never expanded in memory, those of a trellis for a chunk of documents at a time; so do
scores exist, on the CPU for a tile.
"""

from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitembed_core.ops import gpu, library
from bitembed_core.ops.packed_scores import native, reference
from bitembed_core.ops.packed_scores.reference import Documents
from bitembed_core.quantizers import quantize_activation
from bitembed_core.storage import PackedEmbeddings
from bitembed_core.storage.bit_packing import codes_of_bytes, pack_bits

SCORES_AT_ONCE = 1 << 24  # 64 MiB
ROW_BITS = 32


class Best(NamedTuple):
    """The best k documents of each query: cosines float32 (q, k), best first, and rows int64 (q, k)."""

    scores: Tensor
    rows: Tensor


class PackedScores:
    """Documents on a device.

    Args:
        packed: embeddings in any format with codes; five trits of a byte take two bits each here.
        device: where to keep and compare them; by default CUDA where there is some.

    Raises:
        ValueError: embeddings in floating point.
    """

    def __init__(self, packed: PackedEmbeddings, device: torch.device | str | None = None) -> None:
        scheme, self.dim, self.kept = packed.format.scheme, packed.format.dim, packed.format.kept
        if scheme is None or packed.scales is None:
            raise ValueError(
                f"{packed.format.name} embeddings have no packed codes; store them as int8 or less"
            )
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        bits = scheme.top.bit_length()
        codes = packed.codes if scheme.top != 2 else pack_bits(scheme.codes(packed.codes, self.kept), bits)
        codes_NB = torch.from_numpy(np.ascontiguousarray(codes)).to(self.device)
        scale_N = torch.from_numpy(packed.scales).to(self.device)
        code = None if scheme.trellis is None else scheme.trellis.trellis
        unweighted = Documents(codes_NB, scale_N, bits, scheme.top, 1.0, self.kept, code)
        lengths_N = self._lengths(unweighted)
        weight_N = scale_N / scheme.top if scheme.fitted else (scale_N > 0) / lengths_N
        longest = float((weight_N * lengths_N).max()) if len(weight_N) else 1.0
        self._documents = unweighted._replace(weight_N=weight_N, longest=longest)

    def __len__(self) -> int:
        return len(self._documents.codes_NB)

    def scores(
        self, queries: NDArray[np.floating] | Tensor, rows: slice = slice(None), integer: bool = False
    ) -> Tensor:
        """Scores float32 (q, n) of queries (q, dim) with the documents `rows`, as `PackedEmbeddings.scores` has them.

        Args:
            integer: round queries to int8 first.

        Raises:
            ValueError: queries of another dimension, or NaN or infinity in them.
        """
        queries_QD = self._directions(queries)
        if integer:
            queries_QD = quantize_activation(queries_QD)[0]
        codes_NB, weight_N, bits, top, *_ = self._documents.part(rows).looked_up()
        if gpu.automatic(self.device):
            from bitembed_core.ops.packed_scores.triton import packed_scores

            return packed_scores(queries_QD, codes_NB, weight_N, bits, top)
        return reference.packed_scores(queries_QD, codes_NB, weight_N, bits, top)

    def _directions(self, queries: NDArray[np.floating] | Tensor) -> Tensor:
        """Checked queries float32 (q, kept), the largest component of each 1, so that no square overflows or vanishes."""
        queries_QD = torch.as_tensor(queries).to("cpu", torch.float32)
        if queries_QD.ndim != 2 or queries_QD.shape[1] != self.dim:
            raise ValueError(f"queries must be (q, {self.dim}), got {tuple(queries_QD.shape)}")
        x = queries_QD.numpy()
        if not np.isfinite(x).all():
            raise ValueError("queries have NaN or infinite values")
        x = np.ascontiguousarray(x[:, : self.kept])
        largest_Q1 = np.abs(x).max(axis=1, keepdims=True, initial=0)
        return torch.from_numpy(x / np.where(largest_Q1 > 0, largest_Q1, 1)).to(self.device)

    def best(
        self,
        queries: NDArray[np.floating] | Tensor,
        k: int = 10,
        integer: bool = False,
        rows: NDArray[np.integer] | None = None,
    ) -> Best:
        """The k most similar documents of each query; equal scores in the order of the documents.

        Args:
            integer: round queries to int8 first.
            rows: only these documents, ascending; default all.

        Raises:
            ValueError: k below 1, or queries that `scores` refuses.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if rows is not None:
            chosen = torch.as_tensor(rows).to(self.device)
            some = copy(self)
            some._documents = self._documents.part(chosen)
            found = some.best(queries, k, integer)
            return Best(found.scores, chosen[found.rows])
        if self.device.type == "cpu" and library.available() and self.kept <= native.MOST_COMPONENTS:
            return self._best_natively(self._directions(queries), k, integer)
        step = max(1, SCORES_AT_ONCE // max(1, len(queries)))
        if self._documents.trellis is not None:
            step = min(step, max(1, native.LEVELS_AT_ONCE // self.kept))
        best_QK = torch.empty(len(queries), 0, dtype=torch.int64, device=self.device)
        for start in range(0, len(self), step):
            scores_QC = self.scores(queries, slice(start, start + step), integer)
            keys_QC = torch.cat([best_QK, keys_of(scores_QC, start)], dim=1)
            best_QK = keys_QC.topk(min(k, keys_QC.shape[1]), dim=1).values
        return Best(*split_keys(best_QK))

    def _best_natively(self, queries_QD: Tensor, k: int, integer: bool) -> Best:
        if not integer:
            return Best(*native.best_of_vectors(queries_QD, self._documents, k))
        codes_QD = native.int8_codes(queries_QD.numpy())[0]
        scores_QK, rows_QK = native.best_of_codes(torch.from_numpy(codes_QD), self._documents, k)
        lengths_Q1 = np.linalg.norm(codes_QD.astype(np.float32), axis=1, keepdims=True).clip(min=1)
        return Best(scores_QK / torch.from_numpy(lengths_Q1), rows_QK)

    def _lengths(self, documents: Documents) -> Tensor:
        """The length of each row of values `2 z - top`."""
        values = 2 * torch.from_numpy(codes_of_bytes(documents.bits).astype(np.int64)) - documents.top
        squares_256 = values.square().sum(dim=1).to(self.device)
        lengths = torch.empty(len(documents.codes_NB), device=self.device)
        width = -(-self.kept * documents.bits // 8)
        filling = width * (8 // documents.bits) - self.kept  # codes 0 at the end of a row
        step = max(1, SCORES_AT_ONCE // width)
        for start in range(0, len(lengths), step):
            part = documents.part(slice(start, start + step)).looked_up()
            squares = squares_256[part.codes_NB.long()].sum(dim=1)
            lengths[start : start + step] = (squares - filling * documents.top**2).sqrt()
        return lengths


def keys_of(scores_QC: Tensor, first_row: int) -> Tensor:
    """int64 keys that order like the scores, equal ones from the first row to the last."""
    bits = (scores_QC + 0.0).view(torch.int32)  # + 0: minus zero becomes zero
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).long()
    rows_C = torch.arange(first_row, first_row + scores_QC.shape[1], device=scores_QC.device)
    return (ordered << ROW_BITS) | ((1 << ROW_BITS) - 1 - rows_C)


def split_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The scores and rows again."""
    rows = (1 << ROW_BITS) - 1 - (keys & ((1 << ROW_BITS) - 1))
    ordered = (keys >> ROW_BITS).to(torch.int32)
    return torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32), rows
