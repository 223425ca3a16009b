"""A backbone and its tokenizer, from a hub id, a folder or a GGUF file. No language-model head, no pooler."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import logging as hf_logging

QWEN3_END_OF_TEXT = (
    "<|endoftext|>"  # id 151643, what the released checkpoints append; not the chat model's EOS
)


class Backbone(NamedTuple):
    """A float32 transformer without head, in evaluation mode, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def local_folder(source: str | Path) -> Path:
    """The folder or `.gguf` file `source` names, or the local snapshot of hub id `source`.

    Raises:
        FileNotFoundError: there is neither such a path nor, as far as can be found out from here, such a model.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_file():
        raise FileNotFoundError(f"{source} is a file, but not a .gguf file; give the model's folder")
    if path.is_dir():
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
            weights are not all there.
    """
    where: dict[str, Any] = {"pretrained_model_name_or_path": path}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    config = AutoConfig.from_pretrained(**where)
    with quiet_transformers():
        model, loading = AutoModel.from_pretrained(
            **where, dtype=torch.float32, output_loading_info=True, **headless(config)
        )
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise ValueError(f"{path} lacks {len(missing)} weights of its architecture: {', '.join(missing[:5])}")
    if hasattr(model.config, "quantization_config"):  # a GGUF file's weights arrive dequantized
        del model.config.quantization_config
    return Backbone(model.eval(), AutoTokenizer.from_pretrained(**where))


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
    config = AutoConfig.from_pretrained(path)
    config.dtype = torch.float32
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
        ValueError: the tokenizer has no end-of-text token.
    """
    if model_type == "qwen3":
        tokenizer.eos_token = QWEN3_END_OF_TEXT
    eos, eos_id = tokenizer.eos_token, tokenizer.eos_token_id
    if eos is None:
        raise ValueError("last-token pooling needs a tokenizer with an end-of-text token")
    if tokenizer("a")["input_ids"][-1] == eos_id:
        return
    template = processors.TemplateProcessing(
        single=f"$A:0 {eos}:0",
        pair=f"$A:0 {eos}:0 $B:1 {eos}:1",
        special_tokens=[(eos, eos_id)],
    )
    before = tokenizer.backend_tokenizer.post_processor
    both = template if before is None else processors.Sequence([before, template])
    tokenizer.backend_tokenizer.post_processor = both
