"""Read a GGUF file of Qwen3 or Gemma3: ours, the published converter's, llama.cpp's TQ2_0 and TQ1_0, or unquantized.

(transformers reads GGUF too, but neither I2_S nor the projection norms, and of Qwen3 not the size of a head.)
"""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bitembed_core.backbones import empty_model
from bitembed_core.bitlinear import BitLinear
from bitembed_core.checkpoints.gguf.configuration import config_of
from bitembed_core.checkpoints.gguf.container import BF16, F16, F32, GGUFFile
from bitembed_core.checkpoints.gguf.names import ARCHITECTURES, gguf_names, is_offset_norm
from bitembed_core.checkpoints.gguf.ternary_types import TERNARY_TYPES
from bitembed_core.checkpoints.gguf.write import EXTRA, POOLING_TYPES
from bitembed_core.checkpoints.provenance import Provenance
from bitembed_core.checkpoints.sentence_files import SentenceSettings, default_settings
from bitembed_core.conversion import block_linears, convert_to_bitnet, is_output_projection, is_ternary
from bitembed_core.embedding_table import QuantizedEmbedding, embedding_tables

BY_TYPE = {ternary.type: ternary for ternary in TERNARY_TYPES.values()}
FLOATS = {F32: "<f4", F16: "<f2"}


def is_read_here(file: GGUFFile) -> bool:
    """Whether `read_model` is for `file`: it has ternary weights, or it is one of our architectures and unquantized."""
    types = {entry.type for entry in file.tensors.values()}
    ours = file.metadata.get("general.architecture") in ARCHITECTURES.values()
    return bool(types & BY_TYPE.keys()) or (ours and types <= {F32, F16, BF16})


def read_model(file: GGUFFile) -> PreTrainedModel:
    """The model in `file`: frozen ternary layers and the token table as float16, or everything in float32.

    Raises:
        ValueError: a tensor is missing, unexpected, of another shape or not finite, a code or scale is none, or the
            architecture is not read here.
    """
    table = file.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise ValueError(f"{file.path} lacks the token table token_embd.weight")
    config = config_of(file.metadata, vocabulary=table.shape[0])
    _refuse_absurd(file, config)
    model = empty_model(config)
    architecture = file.metadata["general.architecture"]
    names = gguf_names(architecture, config.num_hidden_layers)
    _convert(file, model, names)
    if is_ternary(model):
        for name, embedding in embedding_tables(model).items():
            model.set_submodule(name, QuantizedEmbedding.like(embedding, "float16"))
    state = model.state_dict()
    loaded: dict[str, Tensor] = {}
    for key in state:
        owner, _, leaf = key.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, BitLinear):
            if leaf == "codes":
                codes, scale = _ternary(file, names[f"{owner}.weight"], module)
                loaded |= {f"{owner}.codes": codes, f"{owner}.weight_scale": scale}
            continue
        if isinstance(module, QuantizedEmbedding):
            loaded[key] = _floats(file, names[f"{owner}.weight"], module.table).half()
            continue
        values = _floats(file, names[key], state[key]).float()
        loaded[key] = values - 1 if values.dim() == 1 and is_offset_norm(architecture, key) else values
    used = {
        names[name.replace(".table", ".weight").replace(".codes", ".weight")]
        for name in loaded
        if "scale" not in name
    }
    unexpected = sorted(file.tensors.keys() - used - {"output.weight"})
    if unexpected:
        raise ValueError(
            f"{file.path} has tensors that this architecture has not: {', '.join(unexpected[:5])}"
        )
    model.load_state_dict(loaded, assign=True)
    return model


def read_settings(file: GGUFFile, longest: int) -> SentenceSettings:
    """Pooling, prompts and length of a GGUF model; what the file does not say is assumed, and said aloud."""
    architecture = file.metadata.get("general.architecture")
    stored = file.metadata.get(f"{architecture}.pooling_type")
    pooling = next((mode for mode, number in POOLING_TYPES.items() if number == stored), None)
    settings = default_settings(str(file.path), pooling, is_decoder=True, longest=longest)
    extra = _extra(file)
    settings.prompts = extra.get("prompts") or {}
    settings.default_prompt_name = extra.get("default_prompt_name")
    settings.max_length = min(int(extra.get("max_length") or settings.max_length), longest)
    settings.provenance = Provenance.from_json(extra.get("provenance") or {})
    if not settings.provenance.base_model:
        settings.provenance.base_model = str(file.metadata.get("general.name") or "")
        settings.provenance.licence = str(file.metadata.get("general.license") or "")
    return settings


def _extra(file: GGUFFile) -> dict[str, Any]:
    try:
        extra = json.loads(file.metadata.get(EXTRA, "{}"))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{file.path} is damaged: {EXTRA} is not valid JSON") from error
    if not isinstance(extra, dict):
        raise ValueError(f"{file.path} is damaged: {EXTRA} is not an object")
    return extra


def _convert(file: GGUFFile, model: PreTrainedModel, names: dict[str, str]) -> None:
    """Give `model` the ternary layers and projection norms that `file` has."""
    linears = block_linears(model)
    floating = [name for name in linears if _type(file, names[f"{name}.weight"]) not in BY_TYPE]
    normed = {name for name in linears if names[f"{name}.norm.weight"] in file.tensors}
    outputs = {name for name in linears if is_output_projection(name)}
    if normed - outputs:
        convert_to_bitnet(model, "all", calibration=None, life="frozen", skip=floating)
    else:
        convert_to_bitnet(
            model, "output" if normed else "none", calibration=None, life="frozen", skip=floating
        )


def _type(file: GGUFFile, name: str) -> int:
    if name not in file.tensors:
        raise ValueError(f"{file.path} lacks the tensor {name}")
    return file.tensors[name].type


def _ternary(file: GGUFFile, name: str, module: BitLinear) -> tuple[Tensor, Tensor]:
    shape = (module.out_features, module.in_features)
    data = _checked(file, name, shape)
    try:
        return BY_TYPE[file.tensors[name].type].decode(data, shape)
    except ValueError as error:
        raise ValueError(f"{file.path}, tensor {name}: {error}") from error


def _floats(file: GGUFFile, name: str, like: Tensor) -> Tensor:
    data = _checked(file, name, tuple(like.shape))
    kind = file.tensors[name].type
    if kind == BF16:
        values = torch.from_numpy(np.array(data).view("<i2").reshape(like.shape)).view(torch.bfloat16)
    elif kind in FLOATS:
        values = torch.from_numpy(data.view(FLOATS[kind]).reshape(like.shape).copy())
    else:
        raise ValueError(
            f"{file.path}: the tensor {name} is of ggml type {kind}; floating-point types are read here"
        )
    if not torch.isfinite(values).all():
        raise ValueError(
            f"{file.path}: the tensor {name} has values that are NaN or infinite: the file is damaged"
        )
    return values


def _checked(file: GGUFFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    data = file.data(name)
    if file.tensors[name].shape != shape:
        raise ValueError(f"{file.path}: the tensor {name} is {file.tensors[name].shape}, not {shape}")
    return data


def _refuse_absurd(file: GGUFFile, config: Any) -> None:
    """Before memory is allocated: the sizes in the metadata must be those of the tensors in the file."""
    blocks = {name.split(".")[1] for name in file.tensors if name.startswith("blk.")}
    if len(blocks) != config.num_hidden_layers:
        raise ValueError(f"{file.path} claims {config.num_hidden_layers} layers and has {len(blocks)}")
    expected = {
        "token_embd.weight": (config.vocab_size, config.hidden_size),
        "blk.0.attn_q.weight": (config.num_attention_heads * config.head_dim, config.hidden_size),
        "blk.0.attn_k.weight": (config.num_key_value_heads * config.head_dim, config.hidden_size),
        "blk.0.ffn_up.weight": (config.intermediate_size, config.hidden_size),
    }
    for name, shape in expected.items():
        if name not in file.tensors or file.tensors[name].shape != shape:
            found = file.tensors[name].shape if name in file.tensors else "absent"
            raise ValueError(f"{file.path}: by the metadata the tensor {name} is {shape}, but it is {found}")
