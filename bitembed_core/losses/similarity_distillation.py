"""Distillation of the teacher's similarity distribution over the candidates (`L_score`)."""

from torch import Tensor, nn

from bitembed_core.losses.blocked_scores import mean_loss
from bitembed_core.losses.candidates import EmbeddingBatch, candidates_of
from bitembed_core.ops.candidate_losses import distillation_rows_
from bitembed_core.similarity import inner_products


class SimilarityDistillation(nn.Module):
    """`KL(P_T(.|q_i) || P_S(.|q_i))`, mean over the queries.

    `P(c|q_i) = softmax_{c in C_i}(s(q_i, c) / tau)`, the same tau on both sides and no tau^2 factor.
    Student and teacher may have different dimensions.
    """

    def __init__(self, temperature: float = 0.02) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature = temperature

    def forward(
        self, student: EmbeddingBatch, teacher: EmbeddingBatch, *, offset: int = 0, in_batch: bool = True
    ) -> Tensor:
        """Scalar loss; no gradient goes to the teacher.

        Raises:
            ValueError: the shapes do not fit together, or the two batches differ in texts.
        """
        student_counts, teacher_counts = text_counts(student), text_counts(teacher)
        if student_counts != teacher_counts:
            raise ValueError(
                "student and teacher must embed the same queries, positives and negatives; "
                f"their counts are {student_counts} and {teacher_counts}"
            )
        queries_BD, vectors_CD, target_B, owner_C = candidates_of(student, offset)
        teacher_queries_BD, teacher_vectors_CD = (t.detach() for t in candidates_of(teacher, offset)[:2])

        def row_losses(rows: slice, scores_BC: Tensor) -> Tensor:
            teacher_BC = inner_products(teacher_queries_BD[rows], teacher_vectors_CD).to(scores_BC.dtype)
            owner = None if in_batch else owner_C
            return distillation_rows_(scores_BC, teacher_BC, target_B[rows], owner, self.temperature)

        return mean_loss(queries_BD, vectors_CD, row_losses)


def text_counts(batch: EmbeddingBatch) -> list[tuple[int, ...] | None]:
    """The shapes of a batch without the dimension, in which student and teacher may differ."""
    return [None if e is None else tuple(e.shape[:-1]) for e in batch]
