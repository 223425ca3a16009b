"""Weights of a ternary model in a folder, in three layouts.

- `release`: the published form. The backbone's tensor names and `<projection>.norm.weight`, latent weights,
  nothing in `config.json` about quantization; recognised by the norms.
- `latent`: the training form. The same tensors, exact, in `latent.safetensors`, a name that no other program
  opens, so that latent weights cannot run as plain linears by accident.
- `packed`: the production form. `<projection>.weight` is uint8 with four ternary codes a byte and stands beside
  `<projection>.weight_scale`; a program without our quantizer stops at the shapes.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from bitembed_core.backbones import empty_backbone
from bitembed_core.bitlinear import Life
from bitembed_core.conversion import (
    OUTPUT_PROJECTIONS,
    Sites,
    bit_linears,
    conversion_report,
    convert_to_bitnet,
    freeze,
)
from bitembed_core.files import read_json, write_json
from bitembed_core.ternary_packing import pack_ternary

Layout = Literal["release", "latent", "packed"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
QUANT_METHOD = "bitembed"
WEIGHTS_FILE = "model.safetensors"
LATENT_FILE = "latent.safetensors"
FORMAT_VERSION = 1


def layout_of(folder: Path) -> Layout | None:
    """The layout of the ternary model in `folder`; None when the model there is not ternary.

    Raises:
        ValueError: `config.json` asks for a layout or version of ours that this version does not know.
    """
    quantization = read_json(folder / "config.json").get("quantization_config") or {}
    if quantization.get("quant_method") == QUANT_METHOD:
        layout, version = quantization.get("layout"), quantization.get("version")
        if layout not in ("latent", "packed") or version != FORMAT_VERSION:
            raise ValueError(
                f"{folder} is in layout {layout!r}, version {version}; this release reads 'latent' and "
                f"'packed' in version {FORMAT_VERSION}: upgrade bitembed"
            )
        return layout
    return "release" if _projection_norms(folder) else None


def load_ternary(folder: Path, layout: Layout) -> PreTrainedModel:
    """Load the ternary model in `folder` (see `layout_of`): latent layers, or frozen ones for "packed".

    Raises:
        ValueError: tensors are missing, unexpected or of the wrong shape, or a file is damaged.
    """
    model = empty_backbone(folder)
    life: Life = "packed" if layout == "packed" else "latent"
    convert_to_bitnet(model, _sites(folder, layout), calibration=None, life=life)
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder, layout):
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    tensors = {
        name.removeprefix("model."): t for name, t in tensors.items() if not name.startswith("lm_head.")
    }
    if layout != "packed":
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {error}") from error
    if layout == "packed":
        freeze(model)
    return model


def save_model(model: PreTrainedModel, folder: Path, layout: Layout | None) -> None:
    """Write `config.json` and the weights of `model` into `folder`; layout None is a floating-point model.

    Raises:
        ValueError: latent weights are asked for, but the model is frozen.
    """
    config: dict[str, Any] = model.config.to_dict()
    config.pop("quantization_config", None)
    config["architectures"] = [type(model).__name__]
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if layout in ("latent", "packed"):
        config["quantization_config"] = {
            "quant_method": QUANT_METHOD,
            "layout": layout,
            "sites": conversion_report(model).sites,
            "version": FORMAT_VERSION,
        }
    if layout in ("latent", "release") and any(module.life != "latent" for _, module in bit_linears(model)):
        raise ValueError(
            f"layout {layout!r} needs the latent weights, which this frozen model no longer has; use 'packed'"
        )
    if layout == "packed":
        for name, module in bit_linears(model):
            codes, scale = module.ternary()
            tensors.pop(f"{name}.codes", None)
            tensors[f"{name}.weight"] = pack_ternary(codes)
            tensors[f"{name}.weight_scale"] = scale.float()
    file = LATENT_FILE if layout == "latent" else WEIGHTS_FILE
    save_file(tensors, folder / file, metadata={"format": "pt"})
    write_json(folder / "config.json", _jsonable(config))


def _sites(folder: Path, layout: Layout) -> Sites:
    if layout != "release":
        return read_json(folder / "config.json")["quantization_config"]["sites"]
    projections = [name.removesuffix(".norm.weight") for name in _projection_norms(folder)]
    only_outputs = all(any(p.endswith(f".{o}") for o in OUTPUT_PROJECTIONS) for p in projections)
    return "output" if only_outputs else "all"


def _projection_norms(folder: Path) -> list[str]:
    """Names of the projection norms in `folder`: `<x>.norm.weight` beside `<x>.weight`."""
    names: set[str] = set()
    for path in _weight_files(folder, "release"):
        try:
            with safe_open(path, framework="pt") as file:
                names |= set(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
    return [n for n in names if n.endswith(".norm.weight") and n.replace(".norm.weight", ".weight") in names]


def _weight_files(folder: Path, layout: Layout) -> list[Path]:
    if layout == "latent":
        return [folder / LATENT_FILE]
    return sorted(folder.glob("model*.safetensors"))


def _jsonable(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for key, value in config.items()
    }
