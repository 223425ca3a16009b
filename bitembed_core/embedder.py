"""BitEmbedder: text in, L2-normalised vectors or packed low-bit codes out."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bitembed_core.backbones import Backbone, append_eos, load_backbone, local_folder
from bitembed_core.checkpoints.layouts import LAYOUTS, Layout, layout_of, load_ternary, save_model
from bitembed_core.checkpoints.sentence_files import MODULES, SentenceSettings, read_settings, write_settings
from bitembed_core.conversion import (
    ConversionReport,
    Sites,
    conversion_report,
    convert_to_bitnet,
    freeze,
    is_ternary,
    use_kernel,
)
from bitembed_core.files import atomic_path
from bitembed_core.pooling import PoolingMode, pool
from bitembed_core.storage import PRECISIONS, StorageFormat
from bitembed_core.tokenization import length_batches, pad, token_ids

logger = logging.getLogger(__name__)


class BitEmbedder:
    """A text embedder: transformer (ternary or floating point), tokenizer, pooling, prompts.

    Build one with `from_pretrained`; turn a floating-point one into a ternary one with `convert`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: SentenceSettings,
        device: torch.device | str | None = None,
        kernel: str = "auto",
    ) -> None:
        if settings.pooling == "last":
            append_eos(tokenizer, model.config.model_type)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.settings = settings
        self._told_of_cuts = False
        self.kernel = use_kernel(model, kernel)

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], device: torch.device | str | None = None, kernel: str = "auto"
    ) -> Self:
        """Load a model.

        Args:
            source: a folder (ternary in any layout, plain transformers, or sentence-transformers), a `.gguf` file
                with floating-point or block-quantized weights, or a hub id.
            device: where to run; default CUDA when there is some, else the CPU.
            kernel: which ternary kernel to run, see `ops.ternary_linear`; `.kernel` tells which one that became.

        Raises:
            FileNotFoundError: `source` is no model.
            ValueError: the model's files are damaged or ask for something BitEmbedder does not have.
        """
        path = local_folder(os.fspath(source))
        folder = path if path.is_dir() else None
        layout = layout_of(folder) if folder else None
        if folder is not None and layout is not None:
            backbone = Backbone(load_ternary(folder, layout), AutoTokenizer.from_pretrained(folder))
        else:
            backbone = load_backbone(path)
        config = backbone.model.config
        is_decoder = config.model_type not in ENCODER_TYPES
        settings = read_settings(folder, is_decoder, longest=_longest(backbone))
        return cls(*backbone, settings, device, kernel)

    @property
    def dimension(self) -> int:
        """Number of components of a vector."""
        return self.model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def pooling(self) -> PoolingMode:
        return self.settings.pooling

    @property
    def prompts(self) -> dict[str, str]:
        """Prompt texts by name; "query" and "document" are used by `encode_query` and `encode_document`."""
        return self.settings.prompts

    @property
    def max_length(self) -> int:
        """Tokens of a text that are read, special tokens and prompt included."""
        return self.settings.max_length

    @max_length.setter
    def max_length(self, tokens: int) -> None:
        if not 1 <= tokens <= _longest(Backbone(self.model, self.tokenizer)):
            raise ValueError(f"max_length must be positive and fit the architecture, got {tokens}")
        self.settings.max_length = tokens

    @property
    def is_ternary(self) -> bool:
        return is_ternary(self.model)

    def convert(
        self, sites: Sites = "all", calibration_texts: Sequence[str] | None = None
    ) -> ConversionReport:
        """Make every linear of every block ternary, in place (see `convert_to_bitnet`).

        Args:
            sites: "all" projections get a norm, or the "output" projections only.
            calibration_texts: sample texts on which the norms' gains are calibrated; None takes random tokens.
        """
        batches = None
        if calibration_texts is not None:
            ids, _ = token_ids(self.tokenizer, calibration_texts, self.max_length)
            groups = length_batches([len(tokens) for tokens in ids], batch_size=32)
            batches = (self._pad([ids[row] for row in rows]) for rows in groups)
        convert_to_bitnet(self.model, sites, batches if batches is not None else "vocabulary")
        self.kernel = use_kernel(self.model, "auto")
        return conversion_report(self.model)

    def freeze(self) -> None:
        """Drop the latent weights; encoding gets faster and training ends."""
        freeze(self.model)

    def tokenize(
        self, texts: Sequence[str], prompt: str = "", max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (B, T), right-padded to a multiple of 8 tokens, on the model's device."""
        ids, _ = token_ids(self.tokenizer, [prompt + text for text in texts], max_length or self.max_length)
        return self._pad(ids)

    def embed(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Embeddings (B, d) of a tokenized batch: float32, L2-normalised, differentiable."""
        states_BTD = self.model(**batch).last_hidden_state
        return F.normalize(pool(states_BTD, batch["attention_mask"], self.pooling), dim=-1)

    def encode(
        self,
        texts: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        precision: str = "float32",
        show_progress_bar: bool | None = None,
        truncate: bool = True,
    ) -> Any:
        """Embed texts.

        Args:
            texts: one text or several; none may be empty.
            prompt_name: name of one of `prompts` to put before each text; default the model's default prompt.
            prompt: the prompt itself, instead of a name.
            batch_size: texts in one forward. Texts run with others of their own padded length, so their vectors do
                not depend on their company.
            precision: "float32", "float16", "int8", "int4", "int2" or "binary".
            show_progress_bar: default only for a log level of INFO or lower.
            truncate: cut texts longer than `max_length` tokens, warning the first time; False makes them an error.

        Returns:
            float32, float16: numpy (n, d), L2-normalised, or (d,) for a single text. Otherwise `PackedEmbeddings`.

        Raises:
            ValueError: no texts, an empty text, a text that is too long with `truncate=False`, an unknown precision
                or prompt name.
            TypeError: a text that is not a string.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
        single = isinstance(texts, str)
        texts = self._checked([texts] if isinstance(texts, str) else list(texts))
        prefix = self._prompt(prompt_name, prompt)
        ids, cut = token_ids(self.tokenizer, [prefix + text for text in texts], self.max_length)
        if cut:
            told = f"{cut} of {len(texts)} texts are longer than {self.max_length} tokens"
            if not truncate:
                raise ValueError(f"{told}; shorten them, raise max_length, or allow truncation")
            logger.log(logging.DEBUG if self._told_of_cuts else logging.WARNING, "%s and are cut", told)
            self._told_of_cuts = True
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        vectors = self._encode_ids(ids, batch_size, show_progress_bar)
        if precision == "float32":
            return vectors[0] if single else vectors
        if precision == "float16":
            half = vectors.astype(np.float16)
            return half[0] if single else half
        return StorageFormat(precision, self.dimension).encode(vectors)

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the model's prompt for queries, if it has one."""
        return self.encode(texts, **self._with_prompt("query", options))

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the model's prompt for documents, if it has one."""
        return self.encode(texts, **self._with_prompt("document", options))

    def save_pretrained(self, folder: str | os.PathLike[str], layout: Layout = "release") -> None:
        """Write the model as a folder that sentence-transformers understands, whole or not at all.

        Args:
            folder: destination; an older model there is replaced, anything else is left alone.
            layout: of a ternary model: "release" (latent weights under the published names), "latent" (to go on
                training, exact) or "packed" (two bits a weight, to run). A floating-point model has one form only.

        Raises:
            ValueError: unknown layout, latent weights asked of a frozen model, or `folder` holds something else.
            OSError: the disk is full or not writable.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
        folder = Path(folder)
        if (
            folder.exists()
            and not (folder / MODULES).is_file()
            and (folder.is_file() or any(folder.iterdir()))
        ):
            raise ValueError(f"{folder} exists and is no model folder; it is not overwritten")
        with atomic_path(folder) as fresh:
            fresh.mkdir()
            save_model(self.model, fresh, layout if self.is_ternary else None)
            self.tokenizer.save_pretrained(fresh)
            write_settings(fresh, self.settings, self.dimension)

    @torch.inference_mode()
    def _encode_ids(self, ids: list[list[int]], batch_size: int, show_progress_bar: bool) -> np.ndarray:
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        with tqdm(total=len(ids), desc="encode", unit="text", disable=not show_progress_bar) as progress:
            for rows in length_batches([len(tokens) for tokens in ids], batch_size):
                vectors[rows] = self.embed(self._pad([ids[row] for row in rows])).cpu().numpy()
                progress.update(len(rows))
        return vectors

    def _pad(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        batch = pad(ids, self.tokenizer.pad_token_id)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _checked(self, texts: list[str]) -> list[str]:
        if not texts:
            raise ValueError("there are no texts to encode")
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {position} is a {type(text).__name__}, not a string")
            if not text.strip():
                raise ValueError(f"text {position} is empty; an empty text has no embedding")
        return texts

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        name = name if name is not None else self.settings.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            raise ValueError(f"no prompt named {name!r}; the model has {sorted(self.prompts) or 'none'}")
        return self.prompts[name]

    def _with_prompt(self, side: str, options: dict[str, Any]) -> dict[str, Any]:
        named = options.get("prompt_name") is not None or options.get("prompt") is not None
        return options if named else {**options, "prompt": self.prompts.get(side, "")}


ENCODER_TYPES = frozenset(
    [
        "albert",
        "bert",
        "camembert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "roberta",
        "xlm-roberta",
    ]
)


def _longest(backbone: Backbone) -> int:
    positions: Iterable[int] = (
        limit
        for limit in (
            getattr(backbone.model.config, "max_position_embeddings", None),
            backbone.tokenizer.model_max_length,
        )
        if limit
    )
    return int(min(positions))
