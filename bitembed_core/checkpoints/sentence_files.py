"""The files that make a model folder a sentence-transformers model: modules, pooling, prompts, maximal length."""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bitembed_core.checkpoints.provenance import Provenance
from bitembed_core.files import read_json, write_json
from bitembed_core.output_map import OutputMap
from bitembed_core.pooling import POOLING_MODES, PoolingMode
from bitembed_core.storage.centre import Centre
from bitembed_core.storage.rotation import Rotation

logger = logging.getLogger(__name__)

MODULES = "modules.json"
POOLING_FOLDER = "1_Pooling"
FLAGS: dict[PoolingMode, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}
DEFAULT_MAX_LENGTH = 512


@dataclass
class SentenceSettings:
    """How a model turns text into a vector, apart from its weights; and its history."""

    pooling: PoolingMode
    max_length: int
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    provenance: Provenance = field(default_factory=Provenance)
    output_map: OutputMap | None = None  # of what is pooled
    centre: Centre | None = None  # of the embeddings, around which they are turned
    rotation: Rotation | None = None  # of the embeddings, before they are rounded


def default_settings(
    source: str, pooling: PoolingMode | None, is_decoder: bool, longest: int
) -> SentenceSettings:
    """Settings of a model of which only `pooling` is known, or not even that."""
    if pooling is None:
        pooling = "last" if is_decoder else "mean"
        logger.warning("%s names no pooling; %s-token pooling is assumed", source, pooling)
    return SentenceSettings(pooling, min(longest, DEFAULT_MAX_LENGTH))


def read_settings(folder: Path, is_decoder: bool, longest: int) -> SentenceSettings:
    """Read the settings of a model folder; what is missing is assumed, and said aloud.

    Args:
        folder: model folder.
        is_decoder: a causal model; without pooling files it pools the last token, other models the mean.
        longest: the most tokens the architecture takes.

    Raises:
        ValueError: a pooling mode or a module that BitEmbedder does not have.
    """
    pooling: PoolingMode | None = None
    layers: list[Tensor | Centre] = []
    if (folder / MODULES).is_file():
        pooling, layers = _read_modules(folder)
    elif (folder / POOLING_FOLDER / "config.json").is_file():
        pooling = _read_pooling(folder / POOLING_FOLDER / "config.json")
    settings = default_settings(str(folder), pooling, is_decoder, longest)
    if (folder / "sentence_bert_config.json").is_file():
        length = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
        settings.max_length = min(length or settings.max_length, longest)
    settings.provenance = Provenance.read(folder)
    settings.output_map, settings.centre, settings.rotation = _of_dense(layers, str(folder))
    if (folder / "config_sentence_transformers.json").is_file():
        saved = read_json(folder / "config_sentence_transformers.json")
        settings.prompts = saved.get("prompts") or {}
        settings.default_prompt_name = saved.get("default_prompt_name")
    return settings


def write_settings(folder: Path, settings: SentenceSettings, dimension: int) -> None:
    """Write `settings` in the form that every release of sentence-transformers since 2.2 reads, and the history."""
    settings.provenance.write(folder)
    kinds = [("", "Transformer"), (POOLING_FOLDER, "Pooling")]
    layers: list[tuple[Tensor, Tensor | None] | None] = []  # matrix and bias, or None: to length 1
    if settings.output_map is not None:
        layers.append((settings.output_map.matrix, None))
    if settings.centre is not None:
        layers += [None, (torch.eye(dimension), -settings.centre.vector)]
    if settings.rotation is not None:
        layers.append((settings.rotation.matrix, None))
    for layer in [*layers, None]:
        kind = "Normalize" if layer is None else "Dense"
        path = f"{len(kinds)}_{kind}"
        kinds.append((path, kind))
        (folder / path).mkdir()
        if layer is not None:
            _write_dense(folder / path, *layer)
    write_json(
        folder / MODULES,
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    flags = {flag: mode == settings.pooling for mode, flag in FLAGS.items()}
    pooling = {"word_embedding_dimension": dimension, **flags, "include_prompt": True}
    write_json(folder / POOLING_FOLDER / "config.json", pooling)
    limits = {"max_seq_length": settings.max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limits)
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": settings.prompts,
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": "cosine",
        },
    )


def _read_modules(folder: Path) -> tuple[PoolingMode | None, list[Tensor | Centre]]:
    """The pooling, and of the dense layers the matrices (in, out), or the centre that one takes out."""
    pooling, layers, unit_length = None, list[Tensor | Centre](), False
    for module in read_json(folder / MODULES):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            pooling = _read_pooling(folder / module["path"] / "config.json")
        elif kind == "Dense":
            layers.append(_read_dense(folder / module["path"], unit_length))
        elif kind not in ("Transformer", "Normalize"):
            raise ValueError(
                f"{folder / MODULES} lists a {kind} module; BitEmbedder has Transformer, Pooling, Dense and Normalize only"
            )
        unit_length = kind == "Normalize"
    return pooling, layers


def _of_dense(
    layers: list[Tensor | Centre], where: str
) -> tuple[OutputMap | None, Centre | None, Rotation | None]:
    """What dense layers, one after the other, amount to: a last one that is orthogonal is the rotation of a model."""
    rotation = None
    if layers and isinstance(layers[-1], Tensor):
        with suppress(ValueError):
            rotation = Rotation(layers[-1])
    rest = layers if rotation is None else layers[:-1]
    centre = rest[-1] if rest and isinstance(rest[-1], Centre) else None
    matrices = [layer for layer in rest if isinstance(layer, Tensor)]
    try:
        if len(matrices) + (centre is not None) < len(rest):
            raise ValueError("one with a bias is followed by more than a rotation")
        return OutputMap(reduce(torch.matmul, matrices)) if matrices else None, centre, rotation
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the Dense modules of {where} are no map of its embeddings onto as many components: {error}"
        ) from error


def _write_dense(folder: Path, matrix: Tensor, bias: Tensor | None) -> None:
    """As a Dense module, `x -> x W^T + b`, which every release of sentence-transformers applies."""
    write_json(
        folder / "config.json",
        {
            "in_features": matrix.shape[0],
            "out_features": matrix.shape[1],
            "bias": bias is not None,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    tensors = {"linear.weight": matrix.t().contiguous()} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, folder / "model.safetensors")


def _read_dense(folder: Path, unit_length: bool) -> Tensor | Centre:
    """The matrix (in, out) of a Dense module, or what it takes out of vectors, if these come with `unit_length`."""
    try:
        config = read_json(folder / "config.json")
        if not str(config.get("activation_function")).endswith(".Identity"):
            raise ValueError("it has an activation function")
        tensors = load_file(folder / "model.safetensors")
        weight = tensors["linear.weight"].float()
        bias = tensors.get("linear.bias")
        if (bias is not None) != bool(config.get("bias")):
            raise ValueError("its config.json and its tensors do not agree on a bias")
        if bias is None:
            return weight.t().contiguous()
        if not unit_length or not torch.equal(weight, torch.eye(len(weight))):
            raise ValueError("it has a bias and is not the identity right after a Normalize module")
        return Centre(-bias.float())
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{folder} is a Dense module, of which BitEmbedder has plain matrices and centres only: {error}"
        ) from error


def _read_pooling(path: Path) -> PoolingMode:
    config: dict[str, Any] = read_json(path)
    named = config.get("pooling_mode")
    chosen = [mode for mode, flag in FLAGS.items() if config.get(flag)]
    if named is not None:
        chosen = [mode for mode in POOLING_MODES if named in (mode, f"{mode}token")]
    if len(chosen) != 1:
        raise ValueError(
            f"{path} does not choose exactly one of the pooling modes {', '.join(POOLING_MODES)}"
        )
    return chosen[0]
