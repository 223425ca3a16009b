"""BitEmbedder: text in, L2-normalised vectors or packed low-bit codes out."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from bitembed_core.backbones import (
    ENCODER_TYPES,
    append_eos,
    load_backbone,
    load_tokenizer,
    local_folder,
    longest_text,
)
from bitembed_core.checkpoints import gguf
from bitembed_core.checkpoints.bitnet_format import is_bitnet, load_bitnet
from bitembed_core.checkpoints.embedder_files import read_gguf, save
from bitembed_core.checkpoints.folders import check_tokenizer_files
from bitembed_core.checkpoints.layouts import Layout, layout_of, load_ternary
from bitembed_core.checkpoints.provenance import Provenance
from bitembed_core.checkpoints.sentence_files import SentenceSettings, read_settings
from bitembed_core.conversion import (
    ConversionReport,
    Sites,
    conversion_report,
    convert_to_bitnet,
    freeze,
    is_ternary,
    round_to_float16,
    use_kernel,
)
from bitembed_core.embedding_table import TablePrecision, round_token_table
from bitembed_core.files import read_json
from bitembed_core.ops import library
from bitembed_core.ops.encoder import NotDescribed, OwnEncoder, own_encoder
from bitembed_core.pooling import PoolingMode, pool
from bitembed_core.storage import StorageFormat
from bitembed_core.tokenization import length_batches, pad, token_batches, token_ids, tokenized_ahead
from bitembed_core.vector_space import VectorSpace

logger = logging.getLogger(__name__)


class BitEmbedder(VectorSpace):
    """A text embedder: transformer (ternary or floating point), tokenizer, pooling, prompts.

    Build one with `from_pretrained`; turn a floating-point one into a ternary one with `convert`.

    Args:
        tokenizer: the tokenizer, or what loads it when it is first needed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | Callable[[], Tokenizer],
        settings: SentenceSettings,
        device: torch.device | str | None = None,
        kernel: str = "auto",
    ) -> None:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = (model if model.device == device else model.to(device)).eval()
        self.settings = settings
        self.check_dimensions()
        self._load_tokenizer: Callable[[], Tokenizer] | None = None
        if isinstance(tokenizer, Tokenizer):
            self._tokenizer = self._ready(tokenizer)
        else:
            self._load_tokenizer = tokenizer
        self._told_of_cuts = False
        self._encoder: OwnEncoder | None = None
        self._layer_by_layer = False
        self._use_kernel(kernel)

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], device: torch.device | str | None = None, kernel: str = "auto"
    ) -> Self:
        """Load a model.

        Args:
            source: a folder (ternary in any layout or in transformers' BitNet format, plain transformers, or
                sentence-transformers), a `.gguf` file with ternary, floating-point or block-quantized weights, or a
                hub id.
            device: where to run; default CUDA when there is some, else the CPU.
            kernel: which ternary kernel to run, see `ops.ternary_linear`; `.kernel` tells which one that became.

        Raises:
            FileNotFoundError: `source` is no model.
            ValueError: the model's files are damaged or ask for something BitEmbedder does not have.
        """
        path = local_folder(os.fspath(source))
        if path.is_file():
            return cls(*read_gguf(path), device, kernel)
        layout = layout_of(path)
        tokenizer: Tokenizer | Callable[[], Tokenizer]
        if layout is not None or is_bitnet(path):
            model = load_ternary(path, layout) if layout is not None else load_bitnet(path)
            check_tokenizer_files(path)
            tokenizer = partial(load_tokenizer, path)
        else:
            model, tokenizer = load_backbone(path)
        is_decoder = model.config.model_type not in ENCODER_TYPES
        limit = (
            read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
        )
        settings = read_settings(path, is_decoder, longest=longest_text(model, limit.get("model_max_length")))
        if not settings.provenance.base_model:
            settings.provenance.base_model = str(source) if not Path(source).exists() else path.resolve().name
        return cls(model, tokenizer, settings, device, kernel)

    @property
    def kernel(self) -> str:
        """What computes the ternary layers: "native-" and the instruction set, "int8", "triton", "reference"; or "float"."""
        return f"native-{library.isa()}" if self._kernel == "native" else self._kernel

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; loaded when it is first asked for."""
        if self._load_tokenizer is not None:
            self._tokenizer = self._ready(self._load_tokenizer())
            self._load_tokenizer = None
        return self._tokenizer

    @property
    def provenance(self) -> Provenance:
        """Where the model comes from and what was done to it; part of everything that is saved."""
        return self.settings.provenance

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
        if not 1 <= tokens <= longest_text(self.model, self.tokenizer.model_max_length):
            raise ValueError(f"max_length must be positive and fit the architecture, got {tokens}")
        self.settings.max_length = tokens

    @property
    def is_ternary(self) -> bool:
        return is_ternary(self.model)

    def convert(
        self,
        sites: Sites = "all",
        calibration_texts: Sequence[str] | None = None,
        token_table: TablePrecision = "float16",
    ) -> ConversionReport:
        """Make every linear of every block ternary, in place (see `convert_to_bitnet`); the rest is rounded to float16.

        Args:
            sites: "all" projections get a norm, or the "output" projections only.
            calibration_texts: sample texts on which the norms' gains are calibrated; None takes random tokens.
            token_table: round the token table to values of this precision, in which "packed" then stores it.
        """
        batches = None
        if calibration_texts is not None:
            ids, _ = token_ids(self.tokenizer, calibration_texts, self.max_length)
            groups = length_batches([len(tokens) for tokens in ids], batch_size=32)
            batches = (self._pad([ids[row] for row in rows]) for rows in groups)
        convert_to_bitnet(self.model, sites, batches if batches is not None else "vocabulary")
        round_to_float16(self.model)
        if token_table != "float16":
            round_token_table(self.model, token_table)
        self._use_kernel("auto")
        on = "random tokens" if calibration_texts is None else f"{len(calibration_texts)} texts"
        table = {} if token_table == "float16" else {"token_table": token_table}
        self.provenance.add("conversion", sites=sites, norms_calibrated_on=on, **table)
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
        return self.pooled(self.token_states(batch), batch["attention_mask"])

    def token_states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The last layer's states (B, T, D) of a tokenized batch."""
        # Nothing is generated afterwards: without `use_cache=False` decoders would keep copies of keys and values.
        options = {} if self.model.config.model_type in ENCODER_TYPES else {"use_cache": False}
        return self.model(**batch, **options).last_hidden_state

    def pooled(self, states_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Embeddings (B, d) of texts with these `token_states`."""
        return self.mapped(F.normalize(pool(states_BTD, mask_BT, self.pooling), dim=-1))

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
            batch_size: texts in one forward of the torch model. Texts run with others of their own padded length, so
                their vectors do not depend on their company. A kernel's own encoder takes as many as it likes.
            precision: "float32", "float16", "int8", "int4", "int2", "binary", or a fitted or shortened format (see
                `StorageFormat`).
            show_progress_bar: default only for a log level of INFO or lower.
            truncate: cut texts longer than `max_length` tokens, warning the first time; False makes them an error.

        Returns:
            float32, float16: numpy (n, d), L2-normalised, or (d,) for a single text. Otherwise `PackedEmbeddings`.

        Raises:
            ValueError: no texts, an empty text, a text that is too long with `truncate=False`, an unknown precision
                or prompt name.
            TypeError: a text that is not a string.
        """
        form = StorageFormat(precision, self.dimension)
        single = isinstance(texts, str)
        texts = self._checked([texts] if isinstance(texts, str) else list(texts))
        prefix = self._prompt(prompt_name, prompt)
        if show_progress_bar is None:
            show_progress_bar = logger.isEnabledFor(logging.INFO)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        done = cut = 0
        with tqdm(total=len(texts), desc="encode", unit="text", disable=not show_progress_bar) as progress:
            prompted = [prefix + text for text in texts]
            for ids, cut_here in tokenized_ahead(self.tokenizer, prompted, self.max_length):
                if cut_here and not truncate:
                    raise ValueError(
                        f"{cut_here} of {len(ids)} texts from number {done} on are longer than {self.max_length} tokens; "
                        "shorten them, raise max_length, or allow truncation"
                    )
                cut += cut_here
                vectors[done : done + len(ids)] = self._encode_ids(ids, batch_size, progress.update)
                done += len(ids)
        if cut:
            told = f"{cut} of {len(texts)} texts are longer than {self.max_length} tokens and are cut"
            logger.log(logging.DEBUG if self._told_of_cuts else logging.WARNING, told)
            self._told_of_cuts = True
        if precision == "float32":
            return vectors[0] if single else vectors
        if precision == "float16":
            half = vectors.astype(np.float16)
            return half[0] if single else half
        return form.encode(vectors)

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the model's prompt for queries, if it has one."""
        return self.encode(texts, **self._with_prompt("query", options))

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the model's prompt for documents, if it has one."""
        return self.encode(texts, **self._with_prompt("document", options))

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        layout: Layout = "release",
        token_table: TablePrecision | None = None,
        gguf_type: gguf.GGUFType | None = None,
    ) -> None:
        """Write the model and its card, whole or not at all, after having loaded and run what was written.

        Args:
            folder: destination, for "gguf" a `.gguf` file or a folder; an older model there is replaced, anything else
                is left alone.
            layout: of a ternary model: "release" (latent weights under the published names), "latent" (to go on
                training, exact), "packed" (two bits a weight, to run) or "gguf" (one file for the published runtime or
                llama.cpp). A floating-point model has "release", which is its one form as a folder that
                sentence-transformers understands, and "gguf".
            token_table: precision of the embedding tables in "packed": "float16", "int8" or "int4", not finer than they
                are stored in; None is what they are stored in, or what `convert` rounded the token table to.
            gguf_type: of the linears in "gguf": "i2_s" (the default), "tq2_0" or "tq1_0" (llama.cpp, models without
                projection norms), "f16" (floating-point models).

        Raises:
            ValueError: a layout, precision or type that is unknown or that this model does not fit, weights that are
                not finite, or `folder` holds something else.
            OSError: the disk is full or not writable.
        """
        save(self, Path(folder), layout, token_table, gguf_type)

    @torch.inference_mode()
    def _encode_ids(
        self, ids: list[list[int]], batch_size: int, progress: Callable[[int], object] = lambda _: None
    ) -> np.ndarray:
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        lengths = [len(tokens) for tokens in ids]
        encoder = self._own_encoder()
        batches = (
            length_batches(lengths, batch_size)
            if encoder is None
            else token_batches(lengths, encoder.token_budget)
        )
        for rows in batches:
            batch = [ids[row] for row in rows]
            embedded = (
                self.mapped(encoder.encode(batch)) if encoder is not None else self.embed(self._pad(batch))
            )
            vectors[rows] = embedded.cpu()
            progress(len(rows))
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise ValueError(
                f"the embedding of text {bad[0]} and {len(bad) - 1} others contains NaN or infinity: the model's weights "
                "are damaged or its training diverged"
            )
        return vectors

    def _use_kernel(self, name: str) -> None:
        self._kernel = use_kernel(self.model, name)
        self._encoder, self._layer_by_layer = None, False

    def _own_encoder(self) -> OwnEncoder | None:
        """The kernel's own form of the model as it is now, where it has one and knows the architecture."""
        if self._layer_by_layer:
            return None
        if self._encoder is None or not self._encoder.is_current(self.pooling):
            try:
                self._encoder = own_encoder(self._kernel, self.model, self.pooling)
            except NotDescribed as reason:
                logger.warning("the model runs layer by layer, not in an encoder of its own: %s", reason)
                self._layer_by_layer = True
        return self._encoder

    def _ready(self, tokenizer: Tokenizer) -> Tokenizer:
        """`tokenizer` as this model needs it: padding on the right, an end-of-text token to pool where it pools that."""
        if self.pooling == "last":
            append_eos(tokenizer, self.model.config.model_type)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        return tokenizer

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
