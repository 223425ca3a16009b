"""What `quantization_config` says about a model in one of our layouts, and the empty model that fits it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bitembed_core.conversion import (
    Sites,
    bit_linears,
    block_linears,
    convert_to_bitnet,
    default_norm_eps,
    sites_of,
)
from bitembed_core.embedding_table import (
    TABLE_PRECISIONS,
    QuantizedEmbedding,
    check_codes,
    embedding_tables,
    quantized_tables,
)
from bitembed_core.files import read_json
from bitembed_core.ternary_packing import check_packed

QUANT_METHOD = "bitembed"
FORMAT_VERSION = 3
FIRST_VERSION = 1  # embedding tables and norms in float32, no checksum
INFINITY_OF_FLOAT16 = 0x7C00
QuantizedLayout = Literal["latent", "packed", "release"]


@dataclass(frozen=True)
class QuantizationSettings:
    """A ternary model's form.

    Args:
        layout: "latent" or "packed" on disk.
        sites: where SubLN has its norms.
        token_table: precision of the embedding tables of a packed model; "float32" in version 1 only.
        norm_eps: epsilon of the projection norms; None is the backbone's.
        floating_point_linears: linears of the blocks that are not ternary.
        learned_scales: whether latent weights have scales of their own beside them; stored ternary weights always have.
    """

    layout: QuantizedLayout = "packed"
    sites: Sites = "all"
    token_table: str = "float16"
    norm_eps: float | None = None
    floating_point_linears: tuple[str, ...] = ()
    learned_scales: bool = False
    version: int = FORMAT_VERSION

    @classmethod
    def from_json(cls, config: dict[str, Any], where: str) -> Self:
        """Settings in a `quantization_config`.

        Raises:
            ValueError: a layout, version or value that this release does not know.
        """
        layout, version = config.get("layout"), config.get("version")
        if (
            layout not in ("latent", "packed")
            or not isinstance(version, int)
            or not FIRST_VERSION <= version <= FORMAT_VERSION
        ):
            raise ValueError(
                f"{where} is in layout {layout!r}, version {version}; this release reads 'latent' and "
                f"'packed' up to version {FORMAT_VERSION}: upgrade bitembed"
            )
        table = config.get("token_table", "float32")
        if config.get("sites") not in get_args(Sites) or table not in (*TABLE_PRECISIONS, "float32"):
            raise ValueError(
                f"the quantization_config of {where} has sites {config.get('sites')!r} and token table {table!r}: damaged"
            )
        linears = config.get("floating_point_linears") or ()
        learned = bool(config.get("learned_scales"))
        return cls(layout, config["sites"], table, config.get("norm_eps"), tuple(linears), learned, version)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The settings of the model in `folder`."""
        return cls.from_json(read_json(folder / "config.json")["quantization_config"], str(folder))

    def to_json(self) -> dict[str, Any]:
        """The `quantization_config`."""
        return {"quant_method": QUANT_METHOD, **asdict(self)}


def settings_of(
    model: PreTrainedModel, layout: QuantizedLayout, token_table: str = "float32"
) -> QuantizationSettings:
    """How a converted `model` is described.

    Raises:
        ValueError: its projection norms have different epsilons.
    """
    linears = dict(bit_linears(model))
    norms = {name: module.norm for name, module in linears.items() if module.norm is not None}
    epsilons = {norm.eps for norm in norms.values()}
    if len(epsilons) > 1:
        raise ValueError(f"the projection norms have different epsilons: {sorted(epsilons)}")
    eps = epsilons.pop() if epsilons else None
    return QuantizationSettings(
        layout,
        sites_of(list(norms), len(linears)),
        token_table,
        None if eps == default_norm_eps(model) else eps,
        tuple(_floating_point_linears(model)),
        any(module.log_scale is not None for module in linears.values()) and layout == "latent",
    )


def prepare_packed(model: PreTrainedModel, settings: QuantizationSettings) -> None:
    """Turn a floating-point `model` into the empty model that a packed checkpoint fills, in place."""
    convert_to_bitnet(
        model,
        settings.sites,
        calibration=None,
        life="packed",
        norm_eps=settings.norm_eps,
        skip=settings.floating_point_linears,
    )
    if settings.token_table != "float32":
        for name, embedding in embedding_tables(model).items():
            model.set_submodule(name, QuantizedEmbedding.like(embedding, settings.token_table))  # type: ignore[arg-type]


def is_table(name: str) -> bool:
    """Whether a packed model's tensor called `name` is an embedding table."""
    return name.endswith(".table")


def check_stored_codes(model: PreTrainedModel) -> None:
    """Look at every scale, norm and code of a packed model that was just loaded.

    Raises:
        ValueError: a scale, norm or bias that is NaN, infinite or (a scale) negative, or a code outside its alphabet.
    """
    check_numbers(model.state_dict())
    for name, module in bit_linears(model):
        if module.life == "packed" and module.weight is not None:
            check_packed(module.weight.detach(), name)
    for table in quantized_tables(model).values():
        check_codes(table.table.detach(), table.precision)


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Look at the scales, norms and biases among a packed model's tensors.

    Raises:
        ValueError: one is NaN, infinite or (a scale) negative.
    """
    scales = {name: t for name, t in tensors.items() if name.endswith(("weight_scale", ".scale"))}
    alone = {name: t for name, t in scales.items() if t.numel() > 1}
    vectors = {
        name: t for name, t in tensors.items() if name not in scales and t.is_floating_point() and t.dim() < 2
    }
    found = [name for name, scale in alone.items() if not _is_scale(scale)]
    # Together at first: there are hundreds, most of them short.
    for group, fine in ((scales.keys() - alone.keys(), _is_scale), (vectors.keys(), _is_finite)):
        if group and not fine(torch.cat([tensors[name].flatten().float() for name in group])):
            found += [name for name in sorted(group) if not fine(tensors[name])]
    if found:
        raise ValueError(f"{found[0]} is NaN, infinite or negative: the file is damaged")


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _is_scale(scale: Tensor) -> bool:
    """Whether all values are finite and none is negative."""
    if scale.dtype == torch.float16:  # a table has millions: as integers they need one look and no copy
        low, high = torch.aminmax(scale.detach().view(torch.int16))
        return bool(low >= 0) and bool(high < INFINITY_OF_FLOAT16)
    return _is_finite(scale) and not bool((scale < 0).any())


def _floating_point_linears(model: PreTrainedModel) -> list[str]:
    try:
        return sorted(block_linears(model))
    except ValueError:  # every linear of the blocks is ternary
        return []
