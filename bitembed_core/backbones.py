"""A backbone and its tokenizer, from a hub id, a folder or a GGUF file. No language-model head, no pooler."""

import gc
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import logging as hf_logging

from bitembed_core.checkpoints.tensor_files import refuse_pickled_folder

QWEN3_END_OF_TEXT = (
    "<|endoftext|>"  # id 151643, what the released checkpoints append; not the chat model's EOS
)
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


class Backbone(NamedTuple):
    """A float32 transformer without head, in evaluation mode, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def local_folder(source: str | Path) -> Path:
    """The folder or `.gguf` file that `source` names, or the local snapshot of hub id `source`; a folder may hold one.

    Raises:
        FileNotFoundError: there is neither such a path nor, as far as can be found out from here, such a model.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise FileNotFoundError(f"{source} is a file, but not a .gguf file; give the model's folder")
    if path.is_dir():
        files = list(path.glob("*.gguf"))
        if len(files) == 1 and not (path / "config.json").is_file():
            return files[0]
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{source} is no model folder: it has no config.json")
        return path
    if path.is_absolute() or str(source).count("/") != 1:
        raise FileNotFoundError(
            f"{source} does not exist; give a model folder, a .gguf file or a hub id 'owner/name'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(str(source), allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{source} is neither a folder here nor a model the hub would hand out "
            f"({type(error).__name__}); check the name and the network"
        ) from error


def load_backbone(path: Path) -> Backbone:
    """Load the floating-point model in folder `path`, or in the GGUF file `path`, in float32.

    Raises:
        ValueError: the folder's config.json names an architecture that transformers does not know, or its
            weights are not all there, damaged or pickles.
    """
    if path.is_dir():
        refuse_pickled_folder(path)
    where: dict[str, Any] = {"pretrained_model_name_or_path": path}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    config = AutoConfig.from_pretrained(**where)
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    try:
        with quiet_transformers():
            model, loading = AutoModel.from_pretrained(**where, **options, **headless(config))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"the weights in {path} are damaged or do not fit its config.json: {error}"
        ) from error
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(f"{path} lacks {len(missing)} weights of its architecture: {', '.join(missing[:5])}")
    if hasattr(model.config, "quantization_config"):  # a GGUF file's weights arrive dequantized
        del model.config.quantization_config
    return Backbone(model.eval(), load_tokenizer(**where))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_garbage_collection()  # which would go through a vocabulary's million objects again and again: half of the time
def load_tokenizer(*where: Any, **options: Any) -> PreTrainedTokenizerBase:
    """`AutoTokenizer.from_pretrained`."""
    return AutoTokenizer.from_pretrained(*where, **options)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the progress bars and loading tables of transformers; what matters in them is checked here."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def empty_backbone(path: Path) -> PreTrainedModel:
    """The architecture of folder `path` in float32 with uninitialised weights."""
    return empty_model(AutoConfig.from_pretrained(path))


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A headless float32 model of `config` with uninitialised weights."""
    config.dtype = torch.float32
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with no_init_weights():
        return AutoModel.from_config(config, dtype=torch.float32, **headless(config)).eval()


def headless(config: Any) -> dict[str, bool]:
    """The keyword that keeps a BERT-like model from growing a pooler that no embedding uses."""
    model_class = MODEL_MAPPING[type(config)]
    takes_it = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if takes_it else {}


def append_eos(tokenizer: PreTrainedTokenizerBase, model_type: str) -> None:
    """Make `tokenizer` end every text with the end-of-text token, also when it truncates; idempotent.

    The rule becomes part of the tokenizer's own files, so every program that loads them agrees.

    Raises:
        ValueError: the tokenizer has no end-of-text token, or ends texts with another one.
    """
    if model_type == "qwen3":
        tokenizer.eos_token = QWEN3_END_OF_TEXT
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None:
        raise ValueError("last-token pooling needs a tokenizer with an end-of-text token")
    ids = tokenizer("a")["input_ids"]
    if ids[-1] == eos_id:
        return
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    prefix = ids[: len(ids) - len(plain)]
    if prefix + plain != ids:
        raise ValueError(
            "the tokenizer ends a text with a token of its own, which is not the end-of-text token"
        )
    starts = [(tokenizer.convert_ids_to_tokens(index), index) for index in prefix]
    first = "".join(f"{token}:0 " for token, _ in starts)
    template = processors.TemplateProcessing(
        single=f"{first}$A:0 {eos}:0",
        pair=f"{first}$A:0 {eos}:0 $B:1 {eos}:1",
        special_tokens=[*starts, (eos, eos_id)],
    )
    before = tokenizer.backend_tokenizer.post_processor
    # A sequence of two templates would put the end-of-text token after the tokens of the first one, too.
    alone = before is None or bool(prefix)
    tokenizer.backend_tokenizer.post_processor = (
        template if alone else processors.Sequence([before, template])
    )


def longest_text(model: PreTrainedModel, tokenizer_limit: int | None) -> int:
    """Tokens that the architecture and the tokenizer, where it sets a limit, can take."""
    limits = (getattr(model.config, "max_position_embeddings", None), tokenizer_limit)
    return int(min(limit for limit in limits if limit))
