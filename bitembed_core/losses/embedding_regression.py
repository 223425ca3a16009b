"""Regression onto the teacher's embeddings: no labels, no negatives (LEAF, arXiv 2509.12539)."""

from torch import Tensor, nn

from bitembed_core.similarity import unit_vectors


class EmbeddingRegression(nn.Module):
    """`1 - cos(student, teacher)`, mean over the texts; between 0 and 2."""

    def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """Scalar loss of two embeddings of the same texts; no gradient goes to the teacher.

        Raises:
            ValueError: not two matrices of one shape. A student of another dimension needs a projection
                first.
        """
        if student_ND.ndim != 2 or student_ND.shape != teacher_ND.shape or len(student_ND) == 0:
            raise ValueError(
                "regression compares (N, d) embeddings of the same texts and the same dimension, N > 0; "
                f"got student {tuple(student_ND.shape)} and teacher {tuple(teacher_ND.shape)}"
            )
        cosine_N = (unit_vectors(student_ND) * unit_vectors(teacher_ND.detach())).sum(dim=-1)
        return (1 - cosine_N).mean()
