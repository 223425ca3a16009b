"""Write a model as one GGUF file.

I2_S is what the published ternary runtime takes, projection norms included. llama.cpp's own ternary types TQ2_0 and TQ1_0
need a model that llama.cpp has: Qwen3 or Gemma3 without projection norms (`sites="none"`). Tensors keep the names and the
metadata keys of the published converter; norms are float32, the token table is float16.
"""

import json
import logging
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bitembed_core.bitlinear import BitLinear
from bitembed_core.checkpoints.gguf.configuration import config_metadata
from bitembed_core.checkpoints.gguf.container import F16, F32, TensorToWrite, write_gguf
from bitembed_core.checkpoints.gguf.names import ARCHITECTURES, gguf_names, is_offset_norm
from bitembed_core.checkpoints.gguf.ternary_types import TERNARY_TYPES, TernaryType
from bitembed_core.checkpoints.gguf.vocabulary import tokenizer_metadata
from bitembed_core.checkpoints.sentence_files import SentenceSettings
from bitembed_core.conversion import bit_linears
from bitembed_core.embedding_table import decode_rows, quantized_tables
from bitembed_core.pooling import PoolingMode

logger = logging.getLogger(__name__)

GGUFType = Literal["i2_s", "tq2_0", "tq1_0", "f16"]
GGUF_TYPES: tuple[GGUFType, ...] = get_args(GGUFType)
FILE_TYPES = {
    "f16": 1,
    "tq1_0": 36,
    "tq2_0": 37,
    "i2_s": 40,
}  # llama.cpp's LLAMA_FTYPE, and the published runtime's
POOLING_TYPES: dict[PoolingMode, int] = {"mean": 1, "cls": 2, "last": 3}
EXTRA = "bitembed.settings"


def write_model(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: SentenceSettings,
    name: str,
    kind: GGUFType | None = None,
) -> None:
    """Write `model` to `path`.

    Args:
        kind: how linears are stored; default I2_S for a ternary model, float16 for one in floating point.

    Raises:
        ValueError: an architecture, tensor or type that GGUF or its runtimes cannot hold; the message says why.
    """
    ternary = dict(bit_linears(model))
    kind = kind or ("i2_s" if ternary else "f16")
    if kind not in GGUF_TYPES:
        raise ValueError(f"no GGUF type {kind!r}; choose one of {', '.join(GGUF_TYPES)}")
    if (kind == "f16") == bool(ternary):
        have = "ternary" if ternary else "in floating point"
        raise ValueError(f"the model is {have}, for which GGUF type {kind} is not meant; leave the type out")
    if settings.output_map is not None:
        raise ValueError(
            "GGUF has no place for the map that makes the model's embeddings of what it pools (Dense modules); use another "
            "layout, or distil without output_map_texts"
        )
    if settings.centre is not None:
        raise ValueError(
            "GGUF has no place for the centre of the model's vectors (Dense modules); use another layout, or take it off "
            "(`embedder.centre = None`), which changes cosines"
        )
    if settings.rotation is not None:
        raise ValueError(
            "GGUF has no place for the rotation of the model's vectors; take it off (`embedder.rotation = None`, "
            "`bitembed export --rotation none`), which changes no cosine, and encode stored vectors again"
        )
    metadata = _metadata(model, tokenizer, settings, name, kind)
    if ternary:
        _check_runtime(model, ternary, kind)
    names = gguf_names(ARCHITECTURES[model.config.model_type], model.config.num_hidden_layers)
    tensors = [
        _tensor(model, tensor_name, tensor, names, TERNARY_TYPES.get(kind))
        for tensor_name, tensor in _floating_tensors(model, ternary).items()
    ]
    write_gguf(path, metadata, tensors)


def _metadata(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: SentenceSettings,
    name: str,
    kind: GGUFType,
) -> dict[str, Any]:
    configuration = config_metadata(model.config)
    architecture = ARCHITECTURES[model.config.model_type]
    extra = {
        "prompts": settings.prompts,
        "default_prompt_name": settings.default_prompt_name,
        "max_length": settings.max_length,
        "provenance": settings.provenance.to_json(),
    }
    return {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[kind],
        **configuration,
        f"{architecture}.pooling_type": POOLING_TYPES[settings.pooling],
        **tokenizer_metadata(tokenizer, model.config.vocab_size),
        EXTRA: json.dumps(extra, ensure_ascii=False),
    }


def _floating_tensors(model: PreTrainedModel, ternary: dict[str, BitLinear]) -> dict[str, Tensor | BitLinear]:
    """The model's tensors by transformers' names: ternary weights as their layer, tables decoded."""
    tensors: dict[str, Tensor | BitLinear] = {}
    tables = quantized_tables(model)
    for key, tensor in model.state_dict().items():
        owner, _, leaf = key.rpartition(".")
        if owner in ternary and leaf in ("weight", "codes", "packed_codes"):
            tensors[f"{owner}.weight"] = ternary[owner]
        elif owner in tables:
            table = tables[owner]
            tensors[f"{owner}.weight"] = decode_rows(
                table.table.detach(), table.scale, table.precision, table.dimension
            )
        elif leaf not in ("weight_scale", "log_scale"):
            tensors[key] = tensor.detach()
    return tensors


def _tensor(
    model: PreTrainedModel,
    name: str,
    tensor: Tensor | BitLinear,
    names: dict[str, str],
    ternary_type: TernaryType | None,
) -> TensorToWrite:
    if name not in names:
        raise ValueError(f"GGUF has no place for the tensor {name} of this model")
    if isinstance(tensor, BitLinear):
        assert ternary_type is not None
        codes, scale = tensor.ternary()
        return TensorToWrite(
            names[name], tuple(codes.shape), ternary_type.type, ternary_type.encode(codes.cpu(), scale.cpu())
        )
    values = tensor.float().cpu().numpy()
    if is_offset_norm(ARCHITECTURES[model.config.model_type], name) and values.ndim == 1:
        values = values + 1
    kind = F32 if values.ndim == 1 else F16
    stored: NDArray[Any] = values.astype("<f4" if kind == F32 else "<f2")
    if not np.isfinite(stored).all():
        raise ValueError(
            f"{name} has values that are NaN, infinite or too large for float16; nothing was written"
        )
    return TensorToWrite(
        names[name], values.shape, kind, np.ascontiguousarray(stored).view(np.uint8).reshape(-1)
    )


def _check_runtime(model: PreTrainedModel, ternary: dict[str, BitLinear], kind: GGUFType) -> None:
    """Refuse what the file cannot say, and warn of what its runtime cannot do."""
    norms = [module.norm for module in ternary.values() if module.norm is not None]
    if norms and kind != "i2_s":
        raise ValueError(
            f"{kind.upper()} is for llama.cpp, whose {model.config.model_type} has no norms inside the projections, and "
            f"this model has {len(norms)}: it would compute something else. Use i2_s, or train with sites='none'"
        )
    if any(norm.eps != model.config.rms_norm_eps for norm in norms):
        raise ValueError(
            "a runtime gives the projection norms the epsilon of the other norms, and this model has two"
        )
    multiple = TERNARY_TYPES[kind].row_multiple
    odd = sorted({module.in_features for module in ternary.values() if module.in_features % multiple})
    if odd and kind != "i2_s":
        raise ValueError(
            f"{kind.upper()} holds rows by the {multiple} weights, and this model has rows of {odd}"
        )
    if odd:
        logger.warning(
            "the published runtime multiplies rows by the %d weights and cannot run rows of %s", multiple, odd
        )
    if any(not torch.isfinite(module.ternary()[1]) for module in ternary.values()):
        raise ValueError("a ternary weight has a scale that is NaN or infinite; nothing was written")
