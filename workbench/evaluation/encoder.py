"""BitEmbedder as an mteb encoder whose vectors have been stored as packed bytes and read back.

One floating-point encoding per text serves every precision (`EmbeddingCache`). The precision is part of the
mteb model's metadata and is applied here: mteb's own `precision` keyword and `CompressionWrapper` would fit a
different integer map to the queries than to the documents and compare shifted codes, which is not what an
index stores.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta
from mteb.models.abs_encoder import get_prompt_name
from mteb.models.model_meta import ScoringFunction
from mteb.similarity_functions import cos_sim, dot_score, pairwise_cos_sim
from mteb.types import PromptType
from threadpoolctl import threadpool_limits

from bitembed_core import BitEmbedder, StorageFormat

PROGRESS_FROM_TEXTS = 256


class EmbeddingCache:
    """The float32 embeddings of the texts seen so far, each encoded once per prompt.

    A blank text, which mteb's data sets have here and there, gets the zero vector: similar to nothing.
    """

    def __init__(self, embedder: BitEmbedder, batch_size: int = 32, progress: bool = False) -> None:
        self.embedder = embedder
        self.batch_size = batch_size
        self.progress = progress
        self.threads = torch.get_num_threads()
        self._vectors: dict[tuple[str, str], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def clear(self) -> None:
        self._vectors.clear()

    def encode(self, texts: list[str], prompt: str = "") -> np.ndarray:
        """The embeddings (n, d) of `texts`; ValueError with a text of the model's making NaN or infinity."""
        missing = [
            text for text in dict.fromkeys(texts) if text.strip() and (prompt, text) not in self._vectors
        ]
        if missing:
            with threadpool_limits(self.threads):  # the runner limits scikit-learn, not the model
                fresh = self.embedder.encode(
                    missing,
                    prompt=prompt,
                    batch_size=self.batch_size,
                    show_progress_bar=self.progress and len(missing) >= PROGRESS_FROM_TEXTS,
                )
            self._refuse_bad_values(missing, fresh)
            self._vectors.update({(prompt, text): x for text, x in zip(missing, fresh, strict=True)})
        if not texts:
            return np.zeros((0, self.embedder.dimension), dtype=np.float32)
        blank = np.zeros(self.embedder.dimension, dtype=np.float32)
        return np.stack([self._vectors.get((prompt, text), blank) for text in texts])

    @staticmethod
    def _refuse_bad_values(texts: list[str], vectors: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            example = texts[int(bad[0])][:80]
            raise ValueError(
                f"{len(bad)} of {len(texts)} embeddings contain NaN or infinity, the first for the text "
                f"{example!r}: the model's weights are damaged or its training diverged"
            )


def scoring_name(float_queries: bool) -> str:
    """What results call the way in which vectors are compared."""
    return "float queries" if float_queries else "symmetric"


class MtebEncoder:
    """What mteb calls an encoder: texts in, vectors out, after a round trip through packed codes.

    Both sides are quantized (symmetric scoring), or, with `float_queries`, the documents of retrieval tasks only. What
    formats with a scale per vector give back is brought to unit length, because that is how cosine reads it: a scale must
    not change what a classifier or k-means sees. A fitted format's correction counts where queries are in floating point.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        precision: str = "float32",
        name: str = "model",
        float_queries: bool = False,
    ) -> None:
        self.cache = cache
        self.float_queries = float_queries
        self.similarity = (
            dot_score if float_queries else cos_sim
        )  # everything but corrected documents has length 1
        self.format = StorageFormat(precision, cache.embedder.dimension)
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"bitembed/{name}",
                "revision": precision,
                "similarity_fn_name": (
                    ScoringFunction.DOT_PRODUCT if float_queries else ScoringFunction.COSINE
                ),
                "embed_dim": cache.embedder.dimension,
                "experiment_kwargs": {"precision": precision, "scoring": scoring_name(float_queries)},
            }
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str = "test",
        hf_subset: str = "default",
        prompt_type: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """float32 (n, d) for the batches' `text`, with the prompt that mteb's rules choose for the task."""
        texts = [text for batch in inputs for text in batch["text"]]
        x = self.cache.encode(texts, self.prompt(task_metadata, prompt_type))
        if self.float_queries and prompt_type == PromptType.query:
            return x
        return self.stored(x, corrected=self.float_queries and prompt_type == PromptType.document)

    def prompt(self, task_metadata: Any, prompt_type: Any = None) -> str:
        """The model's prompt for a task: by task name, task type, query or document; "" when it has none."""
        prompts = self.cache.embedder.prompts
        name = get_prompt_name(prompts, task_metadata, prompt_type)
        return prompts[name] if name is not None else ""

    def stored(self, x: np.ndarray, corrected: bool = False) -> np.ndarray:
        """What a reader of the packed bytes of unit vectors `x` (n, d) sees: float32 (n, d).

        Args:
            corrected: leave a fitted format's values as its correction makes them.
        """
        if len(x) == 0:
            return x
        y = self.format.encode(x).decode()
        scheme = self.format.scheme
        if scheme is None or (corrected and scheme.fitted):
            return y
        norm = np.linalg.norm(y, axis=1, keepdims=True)
        return np.divide(y, norm, out=np.zeros_like(y), where=norm > 0)

    similarity: Callable[[Any, Any], Any]
    similarity_pairwise: Callable[[Any, Any], Any] = staticmethod(pairwise_cos_sim)
