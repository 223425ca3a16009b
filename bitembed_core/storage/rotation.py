"""Rotations of embeddings before they are rounded: all cosines stay, what rounding takes becomes less.

A rotation is fitted to embeddings of any text (ITQ, Gong and Lazebnik, CVPR 2011), or random, which spreads outliers, or one
to principal axes, for formats that keep the first components only. Both sides are rotated; it belongs to the index or the
model and must be kept with it.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitembed_core.exact_product import ExactProduct
from bitembed_core.files import atomic_path
from bitembed_core.similarity import unit_vectors

FILE_KIND = "bitembed.rotation"
ORTHOGONAL_TO = 1e-4
ITERATIONS = 50


@dataclass(frozen=True, eq=False)
class Rotation:
    """`x -> x R`.

    Args:
        matrix: R, float32 (dim, dim), orthogonal.

    Raises:
        ValueError: a matrix that is not orthogonal.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        R = self.matrix
        if R.ndim != 2 or R.shape[0] != R.shape[1] or R.dtype != torch.float32:
            raise ValueError(f"a rotation is a square float32 matrix, not {R.dtype} {tuple(R.shape)}")
        if not (R @ R.t() - torch.eye(len(R))).abs().max() < ORTHOGONAL_TO:
            raise ValueError("the matrix is not orthogonal, so it is no rotation: damaged")

    @property
    def dim(self) -> int:
        return len(self.matrix)

    @classmethod
    def random(cls, dim: int, seed: int = 0) -> Self:
        """Uniformly distributed over all rotations and reflections."""
        gauss = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return cls(_orthogonal(gauss))

    @classmethod
    def fit(cls, x: Tensor, iterations: int = ITERATIONS, seed: int = 0) -> Self:
        """The rotation under which the signs of x (n, dim) keep most of its directions.

        Signs B = sign(x R) and the rotation closest to `B^T x` take turns; every turn brings `|B - x R|` down.

        Raises:
            ValueError: fewer than `dim` vectors.
        """
        _check_enough(x)
        unit = unit_vectors(x.detach().cpu())
        R = cls.random(x.shape[1], seed).matrix
        for _ in range(iterations):
            signs = torch.where(unit @ R >= 0, 1.0, -1.0)
            R = _orthogonal((unit.t() @ signs).double())
        return cls(R)

    @classmethod
    def principal(cls, x: Tensor, kept: int | None = None, seed: int = 0) -> Self:
        """The axes along which the vectors x (n, dim) are longest, longest first.

        Args:
            kept: the first so many are turned at random among themselves: a vector that is cut there keeps as much, and few
                bits for each component, which treat all alike, keep more of it.

        Raises:
            ValueError: fewer than `dim` vectors, or `kept` is not 1 to `dim`.
        """
        _check_enough(x)
        unit = unit_vectors(x.detach().cpu()).double()
        axes = torch.linalg.eigh(unit.t() @ unit).eigenvectors.flip(1)
        if kept is not None:
            if not 1 <= kept <= x.shape[1]:
                raise ValueError(f"a vector of {x.shape[1]} components cannot keep {kept}")
            axes[:, :kept] = axes[:, :kept] @ cls.random(kept, seed).matrix.double()
        return cls(_orthogonal(axes))

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., dim) rotated, in x's dtype; without gradients whatever stands beside a vector."""
        if torch.is_grad_enabled() and x.requires_grad:
            return (x.float() @ self.matrix.to(x.device)).to(x.dtype)
        return self._exact(x).to(x)

    @cached_property
    def _exact(self) -> ExactProduct:
        return ExactProduct(self.matrix)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all."""
        with atomic_path(path) as fresh:
            save_file({"rotation": self.matrix}, fresh, {"kind": FILE_KIND, "version": "1"})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; ValueError when the file is damaged or holds something else."""
        try:
            return cls(load_file(path)["rotation"])
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged or no rotation: {error}") from error


def _check_enough(x: Tensor) -> None:
    if x.ndim != 2 or len(x) < x.shape[1]:
        raise ValueError(f"a rotation of {x.shape[-1]} dimensions is fitted to at least as many vectors")


def _orthogonal(matrix: Tensor) -> Tensor:
    """The orthogonal matrix that is closest to `matrix`, float32."""
    left, _, right = torch.linalg.svd(matrix)
    return (left @ right).float()
