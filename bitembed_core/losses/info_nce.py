"""Contrastive loss over in-batch and hard negatives (`L_ctr`)."""

from torch import Tensor, nn

from bitembed_core.losses.blocked_scores import mean_loss
from bitembed_core.losses.candidates import EmbeddingBatch, candidates_of
from bitembed_core.ops.candidate_losses import contrastive_rows_


class InfoNCE(nn.Module):
    """`-log softmax_{c in C_i}(s(q_i, c) / tau)` at the positive of `q_i`, mean over the queries.

    Args:
        temperature: tau.
        false_negative_margin: a negative whose cosine with the query lies more than this above the
            positive's is taken for an unlabelled positive and dropped (0.1 in Qwen3-Embedding). None keeps
            all.
    """

    def __init__(self, temperature: float = 0.02, false_negative_margin: float | None = None) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if false_negative_margin is not None and false_negative_margin < 0:
            raise ValueError(f"false_negative_margin must not be negative, got {false_negative_margin}")
        self.temperature = temperature
        self.false_negative_margin = false_negative_margin

    def forward(
        self,
        queries: Tensor,
        positives: Tensor,
        negatives: Tensor | None = None,
        *,
        offset: int = 0,
        in_batch: bool = True,
    ) -> Tensor:
        """Scalar loss of queries (B, d), positives (P, d) and negatives (P, K, d); see `candidate_scores`."""
        batch = EmbeddingBatch(queries, positives, negatives)
        queries_BD, vectors_CD, target_B, owner_C = candidates_of(batch, offset)

        def row_losses(rows: slice, scores_BC: Tensor) -> Tensor:
            owner = None if in_batch else owner_C
            return contrastive_rows_(
                scores_BC, target_B[rows], owner, self.temperature, self.false_negative_margin
            )

        return mean_loss(queries_BD, vectors_CD, row_losses)
