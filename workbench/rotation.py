"""Giving a model the rotation of its vectors, at random or fitted to text, and writing that into its history."""

from collections.abc import Sequence
from typing import Literal

import torch

from bitembed_core import BitEmbedder
from bitembed_core.storage.rotation import Rotation

ROTATION_TEXTS = 4000  # are enough for a few hundred dimensions
RotationKind = Literal["none", "random", "fitted", "principal"]


def rotate(
    embedder: BitEmbedder,
    kind: RotationKind,
    texts: Sequence[str] = (),
    seed: int = 0,
    kept: int | None = None,
    fitted_to: BitEmbedder | None = None,
) -> None:
    """Set the rotation of `embedder`, in place; one that it has is replaced.

    Args:
        kind: "random", "fitted" to embeddings of `texts` (ITQ), to their "principal" axes, or "none".
        texts: of "fitted" and "principal", at least as many as the vectors have dimensions.
        kept: of "principal", how many components formats will keep (see `Rotation.principal`).
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
    if kind == "fitted":
        embedder.rotation = Rotation.fit(vectors, seed=seed)
    else:
        embedder.rotation = Rotation.principal(vectors, kept, seed)
    embedder.provenance.add(
        "rotation", kind=kind, texts=len(texts), kept=kept or embedder.dimension, seed=seed
    )
