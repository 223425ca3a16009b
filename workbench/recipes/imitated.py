"""What a teacher makes of the texts of a step, with no more of it computed than is needed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bitembed_core.attention import AttentionStates
from workbench.recipes.forward import (
    Embedded,
    Encoder,
    Tokens,
    as_batch,
    autocast,
    embed_batch,
    group_by_length,
)
from workbench.recipes.teacher_vectors import TeacherVectors, token_keys


class Imitated:
    """A teacher's `Encoder`, and its vectors of texts that were met before, if there is a `folder` to keep them in.

    With kept vectors only new texts go through the teacher. Where its attention states are imitated too, all of them have
    to, but only up to the layer of the states once every vector of a micro-batch is there.
    """

    def __init__(self, encoder: Encoder, dtype: torch.dtype, folder: Path | None = None) -> None:
        self.encoder, self.dtype = encoder, dtype
        self.vectors = None if folder is None else TeacherVectors(folder, encoder.embedder, dtype)

    @torch.no_grad()
    def embed_batch(self, tokens: Tokens, size: int, at_least: int = 1) -> Embedded:
        """Embeddings and attention states of what `tokenize_batch` made of `size` examples, in `at_least` so many groups."""
        if self.vectors is None:
            return embed_batch(self.encoder, tokens, size, self.dtype, at_least)
        if self.encoder.layer is None:
            return Embedded(as_batch(self.embeddings(tokens), size), [], [])
        keys_N = token_keys(tokens)
        rows, groups = group_by_length(tokens, at_least=at_least)
        if len(self.vectors.missing(keys_N)):
            with autocast(tokens["input_ids"].device, self.dtype):
                grouped_ND, states = self.encoder(groups)
            self.vectors.add(keys_N[rows.cpu().numpy()], grouped_ND)
        else:
            states = self.states(groups)
        embeddings_ND = self.vectors.get(keys_N).to(tokens["input_ids"].device)
        return Embedded(as_batch(embeddings_ND, size), states, [group["attention_mask"] for group in groups])

    @torch.no_grad()
    def embeddings(self, tokens: Tokens, chunk: int | None = None) -> Tensor:
        """Embeddings (N, d) of tokens (N, T), about `chunk` of which, with padding, go through the teacher at once."""
        if self.vectors is None:
            return self._computed(tokens, chunk)
        keys_N = token_keys(tokens)
        missing = self.vectors.missing(keys_N)
        if len(missing):
            some = {name: tensor[torch.from_numpy(missing)] for name, tensor in tokens.items()}
            self.vectors.add(keys_N[missing], self._computed(some, chunk))
        return self.vectors.get(keys_N).to(tokens["input_ids"].device)

    @torch.no_grad()
    def states(self, groups: Sequence[Tokens]) -> list[AttentionStates]:
        """The attention states of each group of texts, for which the layers above theirs do not run."""
        with autocast(groups[0]["input_ids"].device, self.dtype):
            return self.encoder.states(groups)

    def write(self) -> None:
        """Put the vectors that are kept on disk."""
        if self.vectors is not None:
            self.vectors.write()

    def _computed(self, tokens: Tokens, chunk: int | None) -> Tensor:
        rows, groups = group_by_length(tokens, chunk)
        with autocast(tokens["input_ids"].device, self.dtype):
            return torch.cat([self.encoder([group])[0] for group in groups])[rows.argsort()]
