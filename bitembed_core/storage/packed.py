"""Stored embeddings: real bytes, which can be decoded, compared, sliced, joined, saved and loaded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from bitembed_core.files import atomic_path
from bitembed_core.storage.formats import StorageFormat, as_float_matrix, row_chunks

FILE_KIND = "bitembed.packed_embeddings"
FILE_VERSION = "1"

RowIndex = SupportsIndex | slice | NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]


@dataclass(frozen=True, eq=False)
class PackedEmbeddings:
    """n embeddings in one storage format.

    Args:
        format: precision and dimension.
        codes: uint8 (n, format.code_bytes).
        scales: float32 (n,), not negative; None for the float formats.

    Raises:
        ValueError: the arrays are not what the format stores.
    """

    format: StorageFormat
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        width = self.format.code_bytes
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2 or self.codes.shape[1] != width:
            raise ValueError(
                f"{self.format.name} of dimension {self.format.dim} has uint8 codes (n, {width}); "
                f"got {self.codes.dtype} {self.codes.shape}"
            )
        if (self.scales is not None) != self.format.has_scale:
            raise ValueError(
                f"{self.format.name} has {'a' if self.format.has_scale else 'no'} scale per vector"
            )
        if self.scales is not None and (
            self.scales.dtype != np.float32
            or self.scales.shape != (len(self),)
            or not np.all(np.isfinite(self.scales) & (self.scales >= 0))
        ):
            raise ValueError(f"scales must be {len(self)} finite float32 numbers, none of them negative")

    @property
    def nbytes(self) -> int:
        """Bytes in memory and, up to a short header, on disk: `n * format.bytes_per_vector`."""
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: RowIndex) -> "PackedEmbeddings":
        """The chosen rows: a number gives one row, a slice a view, an array of indices or bools a copy."""
        if isinstance(index, SupportsIndex) and not isinstance(index, np.ndarray):
            row = range(len(self))[index]
            index = slice(row, row + 1)
        elif not isinstance(index, slice):
            index = np.asarray(index)
            index = index.astype(np.intp) if index.size == 0 else index
        return PackedEmbeddings(
            self.format, self.codes[index], None if self.scales is None else self.scales[index]
        )

    def decode(self) -> NDArray[np.float32]:
        """The stored values, float32 (n, dim), as Eq 11 or the correction gives them: not normalised again.

        Components that a shortened format has not kept are zero.
        """
        values = np.zeros((len(self), self.format.dim), dtype=np.float32)
        for rows in row_chunks(len(self), self.format.dim):
            values[rows, : self.format.kept] = self.format.unscaled(self.codes[rows])
            if self.scales is not None:
                values[rows] *= self.scales[rows, None]
        return values

    def scores(self, queries: "NDArray[np.floating] | Tensor | PackedEmbeddings") -> NDArray[np.float32]:
        """Cosine similarity (q, n) of every query with every stored vector; 0 where either is zero.

        For fitted formats it is the corrected inner product, an estimate of the cosine with the vector that was stored.
        Where a format is shortened, all of this is about the components that it keeps.

        Args:
            queries: floating point (q, dim), compared as they are with the stored values (asymmetric); or
                embeddings stored in any format (symmetric).

        Raises:
            ValueError: the dimensions differ, or a query has NaN or infinite values.
        """
        dim = self.format.dim
        if isinstance(queries, PackedEmbeddings):
            queries = queries.decode()
        queries_QD = as_float_matrix(queries, dim, "queries")
        if not np.isfinite(queries_QD).all():
            raise ValueError("queries have NaN or infinite values")
        unit_QD = unit_rows(queries_QD[:, : self.format.kept]).astype(np.float32)
        scores_QN = np.empty((len(unit_QD), len(self)), dtype=np.float32)
        for rows in row_chunks(len(self), dim):
            values_ND = self.format.unscaled(self.codes[rows])
            if self.scales is None or self.format.scheme is None:
                scores_QN[:, rows] = unit_QD @ unit_rows(values_ND).T
            elif self.format.scheme.fitted:
                scores_QN[:, rows] = unit_QD @ values_ND.T * self.scales[rows]
            else:
                # Low-bit values lie in [-1, 1] and none is zero: it is safe to divide the few scores instead.
                length_N = np.sqrt(np.einsum("nd,nd->n", values_ND, values_ND))
                scores_QN[:, rows] = unit_QD @ values_ND.T * ((self.scales[rows] > 0) / length_N)
        return scores_QN

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {"codes": np.ascontiguousarray(self.codes)}
        if self.scales is not None:
            tensors["scales"] = np.ascontiguousarray(self.scales)
        metadata = {
            "kind": FILE_KIND,
            "version": FILE_VERSION,
            "format": self.format.name,
            "dim": str(self.format.dim),
        }
        with atomic_path(path) as fresh:
            save_file(tensors, fresh, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PackedEmbeddings":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"there is no file {path}; write packed embeddings with PackedEmbeddings.save"
            )
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
        if metadata.get("kind") != FILE_KIND or "codes" not in tensors:
            raise ValueError(f"{path} is a safetensors file, but not one of packed embeddings")
        if metadata.get("version") != FILE_VERSION:
            raise ValueError(
                f"{path} has version {metadata.get('version')}; this program reads version {FILE_VERSION}"
            )
        try:
            storage_format = StorageFormat(metadata["format"], int(metadata["dim"]))
            return cls(storage_format, tensors["codes"], tensors.get("scales"))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} contradicts its own description: {error}") from error

    @classmethod
    def concatenate(cls, parts: "Sequence[PackedEmbeddings]") -> "PackedEmbeddings":
        """All rows of `parts` in order.

        Raises:
            ValueError: there are no parts, or their formats differ.
        """
        formats = {part.format for part in parts}
        if len(formats) != 1:
            names = ", ".join(sorted(f"{f.name} ({f.dim})" for f in formats)) or "nothing"
            raise ValueError(f"can only join embeddings of one format, got {names}")
        scales = [part.scales for part in parts if part.scales is not None]
        return cls(
            parts[0].format,
            np.concatenate([part.codes for part in parts]),
            np.concatenate(scales) if scales else None,
        )


def unit_rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows of `x` (n, d) scaled to length 1 in at least float32, without overflow; zero rows stay zero."""
    x = x.astype(np.result_type(x, np.float32), copy=False)
    largest = np.abs(x).max(axis=1, keepdims=True)
    x = x / np.where(largest > 0, largest, 1)
    length = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    return x / np.where(length > 0, length, 1)
