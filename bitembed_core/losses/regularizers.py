"""Losses that shape the embedding space without looking at what the texts say."""

import torch
from torch import Tensor, nn

from bitembed_core.similarity import inner_products, unit_vectors


class SpreadOut(nn.Module):
    """`mean_{i != j} (e_i . e_j)^2` over unit vectors (EmbeddingGemma, arXiv 2509.20354).

    1/d for vectors spread evenly over the sphere. Those that use all of it lose less when they are stored
    in few bits.
    """

    def forward(self, embeddings_ND: Tensor) -> Tensor:
        """Scalar loss of embeddings (N, d), which are normalised here; zero when there is no pair."""
        if embeddings_ND.ndim != 2:
            raise ValueError(f"embeddings must be (N, d), got {tuple(embeddings_ND.shape)}")
        e_ND = unit_vectors(embeddings_ND)
        n = len(e_ND)
        itself_NN = torch.eye(n, dtype=torch.bool, device=e_ND.device)
        cosine_NN = inner_products(e_ND, e_ND).masked_fill(itself_NN, 0)
        return cosine_NN.square().sum() / max(n * (n - 1), 1)
