"""A small retrieval task made of training text that training does not see: is it still getting better?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from bitembed_core import BitEmbedder
from workbench.catalog.streamed import Source
from workbench.recipes.forward import at_most

DEV_STREAM = 4  # of the run's seed
TOP = 10


@dataclass(frozen=True)
class DevSet:
    """Queries, each with the one text that answers it, searched among the texts of all."""

    queries: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def hold_out(cls, sources: Sequence[Source], count: int, seed: int) -> tuple[Self, list[Source]]:
        """About `count` examples, evenly from all sources, at most a tenth of each; and the sources without their texts.

        Raises:
            ValueError: the sources are too small to give any.
        """
        generator = np.random.default_rng([seed, DEV_STREAM])
        queries: list[str] = []
        answers: list[str] = []
        for source in sources:
            share = min(-(-count // len(sources)), source.size // 10)
            for example in source.sample(share, generator):
                if example.query not in queries and example.positive not in answers:
                    queries.append(example.query)
                    answers.append(example.positive)
        if not queries:
            raise ValueError(
                "no source has the ten examples of which one could be held out; set dev_every to none"
            )
        held = {*queries, *answers}
        return cls(tuple(queries), tuple(answers)), [source.without(held) for source in sources]

    def ndcg(self, embedder: BitEmbedder, max_length: int) -> float:
        """nDCG@10 of `embedder`, which reads `max_length` tokens, 0 to 1; a tie counts against it."""
        with at_most(embedder, max_length):
            queries_ND = embedder.encode_query(list(self.queries), show_progress_bar=False)
            answers_ND = embedder.encode_document(list(self.answers), show_progress_bar=False)
        scores_NN = queries_ND @ answers_ND.T
        ranks = (scores_NN >= scores_NN.diagonal()[:, None]).sum(axis=1)  # 1 for the best
        return float(np.mean([1 / math.log2(rank + 1) if rank <= TOP else 0.0 for rank in ranks]))
