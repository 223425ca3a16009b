"""BitEmbedder as an mteb model whose vectors are stored as packed bytes: searched in retrieval, else read back.

One floating-point encoding per text serves every precision (`EmbeddingCache`). The precision is part of the
mteb model's metadata and is applied here: mteb's own `precision` keyword and `CompressionWrapper` would fit a
different integer map to the queries than to the documents and compare shifted codes, which is not what an
index stores.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from mteb.models import ModelMeta, SearchEncoderWrapper
from mteb.models.abs_encoder import get_prompt_name
from mteb.models.model_meta import ScoringFunction
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from threadpoolctl import threadpool_limits

from bitembed_core import BitEmbedder, StorageFormat
from workbench.evaluation.packed_backend import PackedBackend
from workbench.search.rescoring import OVERSAMPLING

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


class FloatEncoder:
    """What mteb calls an encoder: texts in, the model's own vectors out."""

    similarity: Callable[[Any, Any], Any] = staticmethod(cos_sim)
    similarity_pairwise: Callable[[Any, Any], Any] = staticmethod(pairwise_cos_sim)

    def __init__(self, cache: EmbeddingCache, meta: ModelMeta) -> None:
        self.cache, self.mteb_model_meta = cache, meta

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
        return self.cache.encode(texts, self.prompt(task_metadata, prompt_type))

    def prompt(self, task_metadata: Any, prompt_type: Any = None) -> str:
        """The model's prompt for a task: by task name, task type, query or document; "" when it has none."""
        prompts = self.cache.embedder.prompts
        name = get_prompt_name(prompts, task_metadata, prompt_type)
        return prompts[name] if name is not None else ""


class MtebEncoder(FloatEncoder):
    """A model whose vectors are stored: in retrieval a search over packed codes, elsewhere vectors that have been packed.

    Retrieval and reranking go through `PackedBackend`. In other tasks vectors are decoded from their codes and brought to
    unit length, because that is how cosine reads them: a scale per vector must not change what a classifier or k-means sees.

    Args:
        cache: the model.
        precision: how vectors are stored.
        name: what mteb calls the model.
        float_queries, rescore, oversampling: of retrieval, see `PackedBackend`.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        precision: str = "float32",
        name: str = "model",
        float_queries: bool = False,
        rescore: str | None = None,
        oversampling: int = OVERSAMPLING,
    ) -> None:
        dim = cache.embedder.dimension
        self.format = StorageFormat(precision, dim)
        meta = ModelMeta.create_empty(
            overwrites={
                "name": f"bitembed/{name}",
                "revision": precision,
                "similarity_fn_name": ScoringFunction.COSINE,
                "embed_dim": dim,
                "experiment_kwargs": {
                    "precision": precision,
                    "scoring": "float queries" if float_queries else "symmetric",
                    "rescore": f"{rescore} x {oversampling}" if rescore else "no",
                },
            }
        )
        super().__init__(cache, meta)
        wide = StorageFormat(rescore, dim) if rescore else None
        backend = PackedBackend(self.format, float_queries, wide, oversampling)
        self._retrieval = SearchEncoderWrapper(FloatEncoder(cache, meta), index_backend=backend)

    def encode(self, inputs: Iterable[dict[str, Any]], **options: Any) -> np.ndarray:
        """float32 (n, d) as decoded from packed codes; see `FloatEncoder.encode`."""
        return self.stored(super().encode(inputs, **options))

    def index(self, corpus: Any, **options: Any) -> None:
        """Store the documents of a retrieval task; see mteb's `SearchProtocol`."""
        self._retrieval.index(corpus, **options)
        ids = list(corpus["id"])  # mteb would look them up one by one in a column that is read lazily
        self._retrieval.task_corpus = {"id": ids}

    def search(self, queries: Any, **options: Any) -> dict[str, dict[str, float]]:
        """Scores by query and document, of the best documents; see mteb's `SearchProtocol`."""
        return self._retrieval.search(queries, **options)

    def stored(self, x: np.ndarray) -> np.ndarray:
        """What a reader of the packed bytes of unit vectors `x` (n, d) sees: float32 (n, d)."""
        if len(x) == 0:
            return x
        y = self.format.encode(x).decode()
        if self.format.scheme is None:
            return y
        norm = np.linalg.norm(y, axis=1, keepdims=True)
        return np.divide(y, norm, out=np.zeros_like(y), where=norm > 0)
