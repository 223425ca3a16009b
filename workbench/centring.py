"""Taking the mean of a model's vectors out of them, and writing that into its history."""

from collections.abc import Sequence

import torch

from bitembed_core import BitEmbedder
from bitembed_core.storage.centre import SHARE, Centre

CENTRE_TEXTS = 4000


def take_out_mean(
    embedder: BitEmbedder,
    texts: Sequence[str],
    share: float = SHARE,
    measured_on: BitEmbedder | None = None,
) -> None:
    """Set the centre of `embedder`, in place; one that it has is replaced, its rotation stays.

    Args:
        texts: what the mean is that of.
        share: how much of it is taken out, 0 to 1.
        measured_on: the model whose embeddings of `texts` count, by default `embedder` itself: a student is to become like
            its teacher, which has its own share taken out.

    Raises:
        ValueError: no texts, or models of different dimensions.
    """
    model = measured_on or embedder
    centre, rotation = model.centre, model.rotation
    model.centre = model.rotation = None
    try:
        vectors = torch.from_numpy(model.encode_document(list(texts), show_progress_bar=False))
    finally:
        model.centre, model.rotation = centre, rotation
    embedder.centre = Centre.of(vectors, share)
    embedder.provenance.add("centring", texts=len(texts), share=share)
