"""The losses of the method, one per file."""

from bitembed_core.losses.attention_relations import (
    AttentionRelationDistillation,
    matching_layer,
    relation_layer,
)
from bitembed_core.losses.candidates import EmbeddingBatch, candidate_scores
from bitembed_core.losses.embedding_regression import EmbeddingRegression
from bitembed_core.losses.info_nce import InfoNCE
from bitembed_core.losses.multi_precision import MultiPrecisionLoss, MultiPrecisionTerms
from bitembed_core.losses.regularizers import SpreadOut
from bitembed_core.losses.similarity_distillation import SimilarityDistillation

__all__ = [
    "AttentionRelationDistillation",
    "EmbeddingBatch",
    "EmbeddingRegression",
    "InfoNCE",
    "MultiPrecisionLoss",
    "MultiPrecisionTerms",
    "SimilarityDistillation",
    "SpreadOut",
    "candidate_scores",
    "matching_layer",
    "relation_layer",
]
