"""The candidates of a query: all positives of the batch and all hard negatives of all queries (`C_i`)."""

from typing import NamedTuple

import torch
from torch import Tensor

from bitembed_core.similarity import inner_products, unit_vectors


class EmbeddingBatch(NamedTuple):
    """Embeddings of one batch; lengths do not matter, since comparison is by cosine.

    `P > B` when positives and negatives were gathered from other processes.
    """

    queries: Tensor  # (B, d)
    positives: Tensor  # (P, d); the positive of query i is positives[offset + i]
    negatives: Tensor | None = None  # (P, K, d); K hard negatives for the query of each positive


def check_batch(batch: EmbeddingBatch, offset: int) -> None:
    """Raise ValueError, naming the shapes, unless `batch` is as `EmbeddingBatch` says."""
    queries, positives, negatives = batch
    if queries.ndim != 2 or positives.ndim != 2 or queries.shape[1] != positives.shape[1]:
        raise ValueError(
            "queries (B, d) and positives (P, d) must be matrices with the same d; "
            f"got {tuple(queries.shape)} and {tuple(positives.shape)}"
        )
    if len(queries) == 0:
        raise ValueError("the batch has no queries")
    if offset < 0 or offset + len(queries) > len(positives):
        raise ValueError(
            f"{len(queries)} queries with offset {offset} need positives {offset} to "
            f"{offset + len(queries) - 1}, but there are {len(positives)} positives"
        )
    if negatives is not None and (
        negatives.ndim != 3 or negatives.shape[0] != len(positives) or negatives.shape[2] != queries.shape[1]
    ):
        raise ValueError(
            f"negatives must be (P, K, d) with P = {len(positives)} and d = {queries.shape[1]}; "
            f"got {tuple(negatives.shape)}"
        )


class Candidates(NamedTuple):
    """What a batch compares, as unit vectors in at least float32."""

    queries_BD: Tensor
    vectors_CD: Tensor  # first the P positives, then the P * K hard negatives
    target_B: Tensor  # int64: the candidate that is each query's positive
    owner_C: Tensor  # int64: the positive of the query that each candidate belongs to


def candidates_of(batch: EmbeddingBatch, offset: int = 0) -> Candidates:
    """The queries of a batch and what they are compared with; `offset` as in `candidate_scores`.

    Raises:
        ValueError: the shapes do not fit together.
    """
    check_batch(batch, offset)
    vectors_CD = batch.positives
    owner_C = torch.arange(len(batch.positives), device=batch.queries.device)
    target_B = owner_C[offset : offset + len(batch.queries)]
    if batch.negatives is not None:
        vectors_CD = torch.cat([batch.positives, batch.negatives.flatten(0, 1)])
        owner_C = torch.cat([owner_C, owner_C.repeat_interleave(batch.negatives.shape[1])])
    return Candidates(unit_vectors(batch.queries), unit_vectors(vectors_CD), target_B, owner_C)


def candidate_scores(
    batch: EmbeddingBatch, offset: int = 0, in_batch: bool = True
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Cosine of every query with every candidate: first the P positives, then the P * K hard negatives.

    Args:
        batch: embeddings of any floating dtype; the cosines are computed in at least float32.
        offset: index of the first query's positive, `rank * B` when candidates were gathered.
        in_batch: False when other queries' texts may be relevant too: only the query's own positive and own
            hard negatives remain candidates. Without hard negatives nothing is then left to contrast with.

    Returns:
        scores (B, C) with C = P + P * K; allowed bool (B, C), or None when every candidate is; target int64
        (B,), the column of each query's positive.

    Raises:
        ValueError: the shapes do not fit together.
    """
    queries_BD, vectors_CD, target_B, owner_C = candidates_of(batch, offset)
    allowed_BC = None if in_batch else target_B[:, None] == owner_C[None, :]
    return inner_products(queries_BD, vectors_CD), allowed_BC, target_B
