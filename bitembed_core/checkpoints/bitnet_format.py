"""Ternary models in transformers' BitNet format (`quant_method` "bitnet"), turned into ours.

The format has two conventions for `weight_scale` s, by `linear_class`:

- "bitlinear": rows packed four to a byte, `y = Qx(x) T^T / s + b`, so our scale is `1 / s`;
- "autobitlinear", `quantization_mode` "offline": ternary floats or packed rows, `y = (Qx(x) T^T + b) s`, so our scale is
  `s`, and the bias is scaled too;
- "autobitlinear", "online": latent weights and no scale.

With `use_rms_norm` every ternary linear has its own RMSNorm, SubLN's `sites="all"`. Row r of a packed weight with R rows of
bytes lies in row r mod R, in the two bits from 2 (r div R), as `code + 1`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.quantizers.quantizers_utils import should_convert_module

from bitembed_core.backbones import empty_model
from bitembed_core.bitlinear import BitLinear
from bitembed_core.checkpoints.layouts import fit
from bitembed_core.checkpoints.tensor_files import read_tensors, refuse_pickled_folder
from bitembed_core.conversion import bit_linears, block_linears, convert_to_bitnet
from bitembed_core.files import read_json

BITNET_METHOD = "bitnet"
ROWS_PER_BYTE = 4


def is_bitnet(folder: Path) -> bool:
    """Whether the model in `folder` is in transformers' BitNet format."""
    quantization = read_json(folder / "config.json").get("quantization_config") or {}
    return quantization.get("quant_method") == BITNET_METHOD


def load_bitnet(folder: Path) -> PreTrainedModel:
    """The model in `folder`: latent layers in "online" mode, otherwise frozen ones; no language-model head.

    Raises:
        ValueError: a setting of the format that is not known, or tensors that are missing, of another shape, not
            finite, or not ternary.
    """
    quantization = read_json(folder / "config.json")["quantization_config"]
    linear_class = quantization.get("linear_class", "bitlinear")
    mode = quantization.get("quantization_mode", "offline")
    if linear_class not in ("bitlinear", "autobitlinear") or mode not in ("online", "offline"):
        raise ValueError(
            f"{folder} has BitNet layers {linear_class!r} in mode {mode!r}, which are not known here"
        )
    online = linear_class == "autobitlinear" and mode == "online"
    with_norms = bool(quantization.get("use_rms_norm", False))
    refuse_pickled_folder(folder)
    tensors = {
        name.removeprefix("model."): tensor
        for name, tensor in read_tensors(sorted(folder.glob("*.safetensors"))).items()
        if not name.startswith("lm_head.")
    }
    model = empty_model(AutoConfig.from_pretrained(folder))
    convert_to_bitnet(
        model,
        "all" if with_norms else "none",
        calibration=None,
        life="latent" if online else "frozen",
        norm_eps=float(quantization.get("rms_norm_eps") or 1e-6),
        skip=_left_out(model, quantization.get("modules_to_not_convert")),
    )
    for name, module in bit_linears(model):
        if with_norms and f"{name}.rms_norm.weight" in tensors:
            tensors[f"{name}.norm.weight"] = tensors.pop(f"{name}.rms_norm.weight")
        if not online:
            _take_over(name, module, tensors, linear_class)
    tensors = {
        name: tensor if tensor.dtype == torch.int8 else tensor.float() for name, tensor in tensors.items()
    }
    fit(model.state_dict(), tensors, str(folder))
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"{name} in {folder} has values that are NaN or infinite: the file is damaged")
    model.load_state_dict(tensors)
    return model


def _take_over(name: str, module: BitLinear, tensors: dict[str, Tensor], linear_class: str) -> None:
    """Replace a layer's tensors in the BitNet format by the codes, scale and bias of a frozen BitLinear."""
    missing = [leaf for leaf in ("weight", "weight_scale") if f"{name}.{leaf}" not in tensors]
    if missing:
        raise ValueError(
            f"{name} lacks its {' and '.join(missing)}: the model is damaged or not in this format"
        )
    weight, scale = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.weight_scale").float().reshape(-1)
    if scale.numel() != 1 or not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(
            f"{name} has the scale {scale.tolist()}, where one positive number belongs: it is damaged"
        )
    is_packed = weight.dtype == torch.uint8 or (
        linear_class == "bitlinear" or weight.shape[0] != module.out_features
    )
    codes = _unpack_rows(weight.to(torch.uint8), module.out_features, name) if is_packed else weight.float()
    if not is_packed and not torch.equal(codes, codes.round().clamp(-1, 1)):
        raise ValueError(f"{name} has weights other than -1, 0 and 1 in a model that says it is ternary")
    tensors[f"{name}.codes"] = codes.to(torch.int8)
    tensors[f"{name}.weight_scale"] = (1 / scale if linear_class == "bitlinear" else scale).reshape(())
    if linear_class == "autobitlinear" and f"{name}.bias" in tensors:
        tensors[f"{name}.bias"] = tensors[f"{name}.bias"].float() * scale


def _unpack_rows(packed: Tensor, rows: int, name: str) -> Tensor:
    if packed.dim() != 2 or packed.shape[0] != -(-rows // ROWS_PER_BYTE):
        raise ValueError(
            f"{name} has {tuple(packed.shape)} packed bytes, which are not {rows} rows of weights"
        )
    fields = torch.cat([(packed >> (2 * position)) & 3 for position in range(ROWS_PER_BYTE)])[:rows]
    if (fields == 3).any():
        raise ValueError(f"{name} contains the field 3, which is no ternary code: the file is damaged")
    return fields.to(torch.int8) - 1


def _left_out(model: PreTrainedModel, patterns: Any) -> list[str]:
    """Linears of the blocks that the format's `modules_to_not_convert` leaves in floating point."""
    if not patterns:
        return []
    return [
        name
        for name in block_linears(model)
        if not all(should_convert_module(full, list(patterns)) for full in (name, f"model.{name}"))
    ]
