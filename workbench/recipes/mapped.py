"""The last thing that a student learns: the linear map that brings its embeddings closest to its teacher's."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from bitembed_core import BitEmbedder
from bitembed_core.output_map import OutputMap
from workbench.recipes.forward import at_most

logger = logging.getLogger("bitembed")


def check_mappable(student: BitEmbedder, teacher: BitEmbedder | None) -> None:
    """ValueError where `map_to_teacher` would fail after all the training."""
    if teacher is None or teacher.dimension != student.dimension:
        raise ValueError(
            "an output map needs a teacher whose embeddings have as many dimensions as the student's: take another one, or "
            "set output_map_texts to 0"
        )


def map_to_teacher(student: BitEmbedder, teacher: BitEmbedder, texts: Sequence[str], max_length: int) -> None:
    """Give `student` the output map under which its embeddings of `texts` are closest to those of `teacher`, in place.

    Both read `max_length` tokens. The student's centre and rotation stay, after the map. A centre is the teacher's too.
    """
    centre, rotation, centre_of_teacher = student.centre, student.rotation, teacher.centre
    student.centre = student.rotation = student.output_map = None
    if centre is not None:
        teacher.centre = None
    x_ND, y_ND = (_embedded(embedder, texts, max_length) for embedder in (student, teacher))
    teacher.centre = centre_of_teacher
    if rotation is not None:
        y_ND = y_ND @ rotation.matrix.T
    student.output_map, student.centre, student.rotation = OutputMap.fit(x_ND, y_ND), centre, rotation
    before, after = (float((x * y_ND).sum(dim=1).mean()) for x in (x_ND, student.output_map(x_ND)))
    logger.info("output map: cosine to the teacher %.4f, with the map %.4f", before, after)


def _embedded(embedder: BitEmbedder, texts: Sequence[str], max_length: int) -> Tensor:
    with at_most(embedder, max_length):
        return torch.from_numpy(embedder.encode_document(list(texts), show_progress_bar=False))
