"""What a model does to its vectors after pooling, one after the other: output map, centre, rotation."""

from torch import Tensor

from bitembed_core.checkpoints.sentence_files import SentenceSettings
from bitembed_core.output_map import OutputMap
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation


class VectorSpace:
    """The part of a model whose `settings` have these three, for vectors of `dimension` components. All of them are saved
    with the model, and vectors that were stored before one was set do not fit those made afterwards."""

    settings: SentenceSettings

    @property
    def dimension(self) -> int:
        """Number of components of a vector."""
        raise NotImplementedError

    @property
    def output_map(self) -> OutputMap | None:
        """What makes embeddings of what is pooled: dense layers, or a map to a teacher's embeddings (`OutputMap.fit`)."""
        return self.settings.output_map

    @output_map.setter
    def output_map(self, output_map: OutputMap | None) -> None:
        self._check_dimension("output map", output_map)
        self.settings.output_map = output_map

    @property
    def centre(self) -> Centre | None:
        """What embeddings have in common and is taken out of them (`Centre.of`)."""
        return self.settings.centre

    @centre.setter
    def centre(self, centre: Centre | None) -> None:
        self._check_dimension("centre", centre)
        self.settings.centre = centre

    @property
    def rotation(self) -> Rotation | None:
        """Turns every embedding, which changes no cosine between two of them but what rounding takes."""
        return self.settings.rotation

    @rotation.setter
    def rotation(self, rotation: Rotation | None) -> None:
        self._check_dimension("rotation", rotation)
        self.settings.rotation = rotation

    def check_dimensions(self) -> None:
        """ValueError where one of the three is for vectors of another dimension."""
        self._check_dimension("output map", self.output_map)
        self._check_dimension("centre", self.centre)
        self._check_dimension("rotation", self.rotation)

    def _check_dimension(self, what: str, part: OutputMap | Centre | Rotation | None) -> None:
        if part is not None and part.dim != self.dimension:
            raise ValueError(f"the model's vectors have {self.dimension} dimensions, the {what} {part.dim}")

    def mapped(self, x_BD: Tensor) -> Tensor:
        """What is pooled (B, d), at length 1, as the three make it, where the model has them."""
        for part in (self.output_map, self.centre, self.rotation):
            x_BD = x_BD if part is None else part(x_BD)
        return x_BD
