"""A model on its way into another layout: loaded with all it has, and weighed once it is written."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitembed_core import BitEmbedder


def load_for_export(model: str, layout: str) -> "BitEmbedder":
    """The model on the CPU, with its latent weights where it has them.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is in floating point, and `layout` is for ternary models.
    """
    from workbench.catalog.models import load_embedder

    embedder = load_embedder(model, device="cpu", trainable=True)
    if not embedder.is_ternary and layout not in ("release", "gguf"):
        raise ValueError(
            f"{model} is a floating-point model, which has no {layout} layout; convert it first "
            "(notebooks/convert.py)"
        )
    return embedder


def size_on_disk(written: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes of the weights, and of everything, in an exported folder or file."""
    path = Path(written)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    weights = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".gguf"))
    return weights, sum(file.stat().st_size for file in files)
