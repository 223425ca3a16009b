"""Distillation of the teacher's similarity distribution over the candidates (`L_score`)."""

from torch import Tensor, nn

from bitembed_core.losses.candidates import EmbeddingBatch, candidate_scores
from bitembed_core.losses.divergence import kl_divergence


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
        student_scores_BC, allowed_BC, _ = candidate_scores(student, offset, in_batch)
        teacher_scores_BC, _, _ = candidate_scores(teacher, offset, in_batch)
        return kl_divergence(
            teacher_scores_BC / self.temperature, student_scores_BC / self.temperature, allowed_BC
        ).mean()


def text_counts(batch: EmbeddingBatch) -> list[tuple[int, ...] | None]:
    """The shapes of a batch without the dimension, in which student and teacher may differ."""
    return [None if e is None else tuple(e.shape[:-1]) for e in batch]
