"""The student's last step by itself: rotations on both sides, and teachers that do not fit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation
from workbench.recipes.mapped import check_mappable, map_to_teacher

TEXTS = [f"text number {i} about {['cats', 'dogs', 'ships', 'stars'][i % 4]}" for i in range(60)]


@pytest.mark.parametrize("rotated", ["neither", "both", "teacher"])
def test_rotations_stay_what_they_are(tiny_embedder: BitEmbedder, make_embedder: Any, rotated: str) -> None:
    teacher = make_embedder("bert")
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.mul_(1.1)
    rotation = Rotation.random(32, seed=2)
    teacher.rotation = rotation if rotated != "neither" else None
    tiny_embedder.rotation = rotation if rotated == "both" else None
    length = tiny_embedder.max_length
    map_to_teacher(tiny_embedder, teacher, TEXTS, max_length=4)
    assert tiny_embedder.max_length == teacher.max_length == length
    assert (tiny_embedder.rotation is rotation) == (rotated == "both")
    tiny_embedder.max_length = teacher.max_length = 4
    y_ND = teacher.encode(TEXTS)
    mapped_ND, tiny_embedder.output_map = tiny_embedder.encode(TEXTS), None
    x_ND = tiny_embedder.encode(TEXTS)
    assert (mapped_ND * y_ND).sum() > (x_ND * y_ND).sum()
    # A rotation of both sides turns the map with it.
    fitted = OutputMap.fit(torch.from_numpy(x_ND), torch.from_numpy(y_ND))
    np.testing.assert_allclose(mapped_ND, fitted(torch.from_numpy(x_ND)).numpy(), atol=1e-5)


def test_the_map_is_fitted_to_vectors_with_their_mean(tiny_embedder: BitEmbedder, make_embedder: Any) -> None:
    teacher = make_embedder("bert")
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.mul_(1.1)
    x_ND, y_ND = (torch.from_numpy(model.encode(TEXTS)) for model in (tiny_embedder, teacher))
    centre = Centre.of(y_ND)
    tiny_embedder.centre = teacher.centre = centre
    map_to_teacher(tiny_embedder, teacher, TEXTS, max_length=64)
    assert tiny_embedder.centre is teacher.centre is centre
    assert tiny_embedder.output_map is not None
    expected = OutputMap.fit(x_ND, y_ND).matrix.numpy()
    np.testing.assert_allclose(tiny_embedder.output_map.matrix.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("teacher", [None, SimpleNamespace(dimension=8)])
def test_no_teacher_that_fits(teacher: Any) -> None:
    with pytest.raises(ValueError, match="needs a teacher whose embeddings have as many dimensions"):
        check_mappable(SimpleNamespace(dimension=4), teacher)  # type: ignore[arg-type]
