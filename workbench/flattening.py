"""Making the directions of a model's vectors more alike, and writing that into its history."""

from collections.abc import Sequence

import torch

from bitembed_core import BitEmbedder
from bitembed_core.output_map import FLATTENING, OutputMap

FLATTENING_TEXTS = 4000  # are enough for a few hundred dimensions


def flatten_spectrum(embedder: BitEmbedder, texts: Sequence[str], power: float = FLATTENING) -> None:
    """Follow the output map of `embedder` by one that flattens the spectrum of its vectors, in place.

    Its rotation stays; one that was fitted should be fitted again.

    Args:
        texts: at least as many as the vectors have dimensions.
        power: see `OutputMap.flattening`.

    Raises:
        ValueError: too few texts, a power outside 0 to 1, or a model with a centre, which is that of other vectors then.
    """
    if embedder.centre is not None:
        raise ValueError(
            "the model has a centre: flatten its vectors first, and take their mean out afterwards"
        )
    if len(texts) < embedder.dimension:
        raise ValueError(
            f"a spectrum of {embedder.dimension} dimensions is that of at least as many texts, not {len(texts)}"
        )
    rotation, embedder.rotation = embedder.rotation, None
    try:
        vectors = torch.from_numpy(embedder.encode_document(list(texts), show_progress_bar=False))
    finally:
        embedder.rotation = rotation
    flattening = OutputMap.flattening(vectors, power)
    before = embedder.output_map
    embedder.output_map = flattening if before is None else before.then(flattening)
    embedder.provenance.add("flattening", texts=len(texts), power=power)
