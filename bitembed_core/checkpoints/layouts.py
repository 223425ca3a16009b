"""Weights of a ternary model in a folder, in three layouts (a fourth, GGUF, is one file: `checkpoints/gguf`).

- `release`: the published form. The backbone's tensor names and `<projection>.norm.weight`, latent weights in bfloat16,
  nothing in `config.json` about quantization; recognised by the norms.
- `latent`: the training form. The same tensors, exact, in `latent.safetensors`, a name that no other program
  opens, so that latent weights cannot run as plain linears by accident.
- `packed`: the production form. `<projection>.weight` is uint8 with four ternary codes a byte and stands beside
  `<projection>.weight_scale`; norms and biases are float16, embedding tables as `embedding_table.py` stores them. A
  program without our quantizer stops at the shapes.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bitembed_core.backbones import empty_backbone
from bitembed_core.bitlinear import BitLinear
from bitembed_core.checkpoints.latent_export import bfloat16_latent, pattern_latent
from bitembed_core.checkpoints.quantization import (
    QUANT_METHOD,
    QuantizationSettings,
    check_numbers,
    is_table,
    prepare_packed,
    settings_of,
)
from bitembed_core.checkpoints.tensor_files import (
    map_file,
    map_tensors,
    read_tensors,
    refuse_pickled_folder,
    tensor_bytes,
    tensor_names,
    verify_digest,
    verify_digests,
    write_tensors,
)
from bitembed_core.conversion import (
    bit_linears,
    convert_to_bitnet,
    default_norm_eps,
    freeze,
    is_output_projection,
    learn_scales,
)
from bitembed_core.embedding_table import (
    QuantizedEmbedding,
    TablePrecision,
    check_codes,
    quantize_table,
    quantized_tables,
)
from bitembed_core.files import read_json, write_json
from bitembed_core.ternary_packing import check_packed, pack_ternary

Layout = Literal["release", "latent", "packed", "gguf"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
WEIGHTS_FILE = "model.safetensors"
POOLER = "pooler."  # a BERT model that transformers built may have one; no embedding uses it
LATENT_FILE = "latent.safetensors"
LARGEST_FLOAT16 = torch.finfo(torch.float16).max
SMALLEST_FLOAT16 = torch.finfo(torch.float16).tiny  # below it precision fades


def layout_of(folder: Path) -> Layout | None:
    """The layout of the ternary model in `folder`; None when the model there is not one of ours or of the release.

    Raises:
        ValueError: `config.json` asks for a layout or version of ours that this version does not know, or the
            weights are pickles.
    """
    quantization = read_json(folder / "config.json").get("quantization_config") or {}
    if quantization.get("quant_method") == QUANT_METHOD:
        return QuantizationSettings.from_json(quantization, str(folder)).layout
    if quantization:
        return None
    refuse_pickled_folder(folder)
    return "release" if _projection_norms(folder) else None


def load_ternary(folder: Path, layout: Layout) -> PreTrainedModel:
    """Load the ternary model in `folder` (see `layout_of`): latent layers, or frozen ones for "packed".

    Raises:
        ValueError: tensors are missing, unexpected, of the wrong shape or not finite, codes are outside the alphabet,
            or a file is damaged.
    """
    if layout == "packed":
        return _load_packed(folder)
    model = empty_backbone(folder)
    if layout == "latent":
        settings = QuantizationSettings.read(folder)
        convert_to_bitnet(
            model,
            settings.sites,
            calibration=None,
            norm_eps=settings.norm_eps,
            skip=settings.floating_point_linears,
        )
        if settings.learned_scales:
            learn_scales(model)
    else:
        norms = _projection_norms(folder)
        only_outputs = all(is_output_projection(name) for name in norms)
        convert_to_bitnet(model, "output" if only_outputs else "all", calibration=None)
    tensors = {name: tensor.float() for name, tensor in _read(folder, layout).items()}
    fit(model.state_dict(), tensors, str(folder))
    verify_digests(_weight_files(folder, layout))
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} in {folder} has values that are NaN or infinite: the file is damaged")
    model.load_state_dict(tensors)
    return model


def save_model(
    model: PreTrainedModel, folder: Path, layout: Layout | None, token_table: TablePrecision | None = None
) -> None:
    """Write `config.json` and the weights of `model` into `folder`; layout None is a floating-point model.

    Args:
        token_table: how "packed" stores the embedding tables; None is as they are stored already, or float16.

    Raises:
        ValueError: weights that are NaN or infinite, latent weights asked of a frozen model, a table finer than the
            stored one, or a model that the layout cannot hold.
    """
    config = _plain_config(model)
    if layout == "packed":
        tensors = _packed_tensors(model, token_table)
        stored = {table.precision for table in quantized_tables(model).values()}
        precision = str(token_table or next(iter(stored & {"int8", "int4"}), "float16"))
        config["quantization_config"] = settings_of(model, "packed", precision).to_json()
        config["dtype"] = "float32"  # of the computation, whatever the tensors are stored in
    elif layout == "release":
        tensors = _release_tensors(model)
        config |= _legacy_rope(config)
        only_bfloat16 = all(tensor.dtype == torch.bfloat16 for tensor in tensors.values())
        config["dtype"] = "bfloat16" if only_bfloat16 else "float32"
    else:
        if quantized_tables(model):
            raise ValueError(
                "the embedding table was stored in few bits; such a model has the layout 'packed' only"
            )
        tensors = dict(model.state_dict())
        if layout == "latent":
            if any(module.life != "latent" for _, module in bit_linears(model)):
                raise ValueError(
                    "layout 'latent' needs the latent weights, which this frozen model no longer has; "
                    "use 'packed', or 'release', which makes up equivalent ones"
                )
            config["quantization_config"] = settings_of(model, "latent").to_json()
    file = LATENT_FILE if layout == "latent" else WEIGHTS_FILE
    write_tensors(folder / file, tensors, {})
    write_json(folder / "config.json", config)


def fit(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that `tensors` are those of a model with this state dict, by name and shape, a pooler aside.

    Raises:
        ValueError: which are missing, unexpected or of another shape.
    """
    expected = {name: t for name, t in state.items() if not name.startswith(POOLER)}
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong))
        if names
    ]
    if problems:
        raise ValueError(f"the weights in {where} do not fit its config.json: {'; '.join(problems)}")


def _load_packed(folder: Path) -> PreTrainedModel:
    settings = QuantizationSettings.read(folder)
    (path, *others) = _weight_files(folder, "packed")
    if others:
        raise ValueError(f"{folder} has {1 + len(others)} weight files; a packed model has one")
    with ThreadPoolExecutor(max_workers=1) as checker:  # the file is checked while the model is built
        intact = checker.submit(_check_file, path, settings)
        model = empty_backbone(folder)
        prepare_packed(model, settings)
        tensors = map_tensors(path, mapped=_lies_as_used)
        expected = model.state_dict()
        fit(expected, tensors, str(folder))
        try:
            _fill(model, tensors, expected, folder)
        finally:
            intact.result()  # a wrong checksum explains whatever was found
    return model


def _fill(
    model: PreTrainedModel, tensors: dict[str, Tensor], expected: Mapping[str, Tensor], folder: Path
) -> None:
    """Make tensors that fit, once they have been looked at, those of the model, in the types that are `expected`."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not is_table(name):
            tensors[name] = tensor.to(expected[name].dtype)
        elif tensor.dtype != expected[name].dtype:
            raise ValueError(f"{name} in {folder} is {tensor.dtype}, not {expected[name].dtype}")
    check_numbers(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.uint8 and not is_table(name):
            check_packed(tensor, name.removesuffix(".weight"))
    _take_over(model, tensors)
    freeze(model)


def _check_file(path: Path, settings: QuantizationSettings) -> None:
    """The checksum, and the codes of the tables."""
    bytes_N = map_file(path)
    verify_digest(path, bytes_N, required=settings.version > 1)
    for name, (dtype, _, stored) in tensor_bytes(path, bytes_N).items():
        if is_table(name) and not dtype.is_floating_point:
            check_codes(stored, "int8" if dtype == torch.int8 else "int4")


def _lies_as_used(name: str, dtype: torch.dtype) -> bool:
    """Whether a packed file's tensor can stay in the file: tables and ternary weights."""
    return is_table(name) or dtype == torch.uint8


def _take_over(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """`load_state_dict(assign=True)` of tensors that fit, without its checks."""
    modules = dict(model.named_modules())
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        module = modules[owner]
        if leaf in module._parameters:
            old = module._parameters[leaf]
            module._parameters[leaf] = torch.nn.Parameter(tensor, old is not None and old.requires_grad)
        else:
            module._buffers[leaf] = tensor


def _packed_tensors(model: PreTrainedModel, token_table: TablePrecision | None) -> dict[str, Tensor]:
    tensors = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            packed, scale = module.packed_codes, module.weight_scale
            if packed is None:
                codes, scale = module.ternary()
                packed = pack_ternary(codes)
            assert scale is not None
            for leaf in ("codes", "packed_codes", "log_scale"):
                tensors.pop(f"{name}.{leaf}", None)
            tensors |= {f"{name}.weight": packed, f"{name}.weight_scale": scale.float()}
        elif isinstance(module, torch.nn.Embedding | QuantizedEmbedding):
            if isinstance(module, QuantizedEmbedding):
                table, scales = module.rounded(token_table or module.precision)
            else:
                own = QuantizedEmbedding.like(module, token_table or "float16").precision
                table, scales = quantize_table(tensors.pop(f"{name}.weight"), own)
            tensors[f"{name}.table"] = table
            if scales is not None:
                tensors[f"{name}.scale"] = scales
    kept = {f"{name}.weight_scale" for name, _ in bit_linears(model)}
    return {name: tensor if name in kept else _in_float16(tensor) for name, tensor in tensors.items()}


def _in_float16(tensor: Tensor) -> Tensor:
    """`tensor` in float16 where its values are in that format's range, unchanged where they are not."""
    if tensor.dtype != torch.float32:
        return tensor
    size = tensor.abs()
    in_range = (size <= LARGEST_FLOAT16) & ((size >= SMALLEST_FLOAT16) | (tensor.half() == tensor))
    return tensor.half() if in_range.all() else tensor


def _release_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """bfloat16 wherever that changes nothing, float32 elsewhere, so that the embeddings stay what they are."""
    settings = settings_of(model, "release")
    if settings.floating_point_linears or settings.norm_eps not in (None, default_norm_eps(model)):
        raise ValueError(
            "the release format has every linear ternary and one epsilon; use 'packed' or 'latent'"
        )
    if settings.sites == "none":
        raise ValueError(
            "the release format is known by its projection norms, and this model has none; use 'packed'"
        )
    if quantized_tables(model):
        raise ValueError(
            "the embedding table was stored in few bits; such a model has the layout 'packed' only"
        )
    tensors = dict(model.state_dict())
    for name, module in bit_linears(model):
        codes, scale = module.ternary()
        latent = module.latent_weight().detach() if module.life == "latent" else None
        for leaf in ("codes", "packed_codes", "weight_scale", "log_scale"):
            tensors.pop(f"{name}.{leaf}", None)
        exact = bfloat16_latent(codes, scale, latent)
        if exact is None:
            exact = pattern_latent(codes, scale) if latent is None else latent
        tensors[f"{name}.weight"] = exact
    return {name: _in_bfloat16(tensor) for name, tensor in tensors.items()}


def _in_bfloat16(tensor: Tensor) -> Tensor:
    narrow = tensor.bfloat16()
    return narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor


def _read(folder: Path, layout: Layout) -> dict[str, Tensor]:
    """Tensors by the names the headless backbone gives them; a language model's head is left behind."""
    tensors = read_tensors(_weight_files(folder, layout))
    return {name.removeprefix("model."): t for name, t in tensors.items() if not name.startswith("lm_head.")}


def _projection_norms(folder: Path) -> list[str]:
    """Names of the projections in `folder` that have a norm: `<x>.norm.weight` beside `<x>.weight`."""
    names = tensor_names(folder.glob("model*.safetensors"))
    return [
        name.removesuffix(".norm.weight")
        for name in names
        if name.endswith(".norm.weight") and name.replace(".norm.weight", ".weight") in names
    ]


def _weight_files(folder: Path, layout: Layout) -> list[Path]:
    if layout == "latent":
        return [folder / LATENT_FILE]
    return sorted(folder.glob("model*.safetensors")) or [folder / WEIGHTS_FILE]


def _plain_config(model: PreTrainedModel) -> dict[str, Any]:
    """`config.json` of the backbone itself, without paths of this machine."""
    config: dict[str, Any] = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    config["architectures"] = [type(model).__name__]
    return {
        key: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for key, value in config.items()
    }


def _legacy_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary base under the keys from before transformers 5, which the published converter reads."""
    rope = config.get("rope_parameters") or {}
    if "full_attention" not in rope:
        return {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    legacy = {"rope_theta": rope["full_attention"]["rope_theta"]}
    if "sliding_attention" in rope:
        legacy["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    return legacy
