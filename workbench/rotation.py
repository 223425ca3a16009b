"""Giving a model the rotation of its vectors, at random or fitted to text, and writing that into its history."""

from collections.abc import Sequence
from typing import Literal

import torch

from bitembed_core import BitEmbedder
from bitembed_core.storage.rotation import Rotation

ROTATION_TEXTS = 4000  # are enough for a few hundred dimensions
RotationKind = Literal["none", "random", "fitted"]


def rotate(
    embedder: BitEmbedder,
    kind: RotationKind,
    texts: Sequence[str] = (),
    seed: int = 0,
    fitted_to: BitEmbedder | None = None,
) -> None:
    """Set the rotation of `embedder`, in place; one that it has is replaced.

    Args:
        kind: "random", "fitted" to embeddings of `texts` (ITQ), or "none".
        texts: of "fitted", at least as many as the vectors have dimensions.
        fitted_to: the model whose embeddings of `texts` count, by default `embedder` itself: a student that has yet to
            become like its teacher is better served by the teacher's.

    Raises:
        ValueError: too few texts, or models of different dimensions.
    """
    embedder.rotation = None
    if kind == "none":
        return
    if kind == "random":
        embedder.rotation = Rotation.random(embedder.dimension, seed)
        embedder.provenance.add("rotation", kind=kind, seed=seed)
        return
    model = fitted_to or embedder
    if len(texts) < embedder.dimension:
        raise ValueError(
            f"a rotation of {embedder.dimension} dimensions is fitted to at least as many texts, not {len(texts)}"
        )
    vectors = torch.from_numpy(model.encode_document(list(texts), show_progress_bar=False))
    embedder.rotation = Rotation.fit(vectors, seed=seed)
    embedder.provenance.add("rotation", kind=kind, texts=len(texts), seed=seed)
