"""Our packed layout inside transformers: with `bitembed_core` imported, `AutoModel` and `SentenceTransformer` load it."""

from typing import Any

from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bitembed_core.checkpoints.layouts import FORMAT_VERSION, QUANT_METHOD
from bitembed_core.conversion import convert_to_bitnet, freeze


@register_quantization_config(QUANT_METHOD)
class BitEmbedConfig(QuantizationConfigMixin):
    """`quantization_config` of `config.json`: the layout, and which projections carry a norm."""

    def __init__(
        self, layout: str = "packed", sites: str = "all", version: int = FORMAT_VERSION, **_: Any
    ) -> None:
        self.quant_method = QUANT_METHOD
        self.layout, self.sites, self.version = layout, sites, version
        if layout != "packed":
            raise ValueError(
                f"layout {layout!r} is for training; open it with BitEmbedder.from_pretrained, "
                "or export it with layout='packed'"
            )


@register_quantizer(QUANT_METHOD)
class BitEmbedQuantizer(HfQuantizer):
    """Puts packed BitLinears in place of the linears before the weights arrive, and unpacks them afterwards."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        sites = self.quantization_config.sites
        return convert_to_bitnet(model, sites, calibration=None, life="packed")

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        freeze(model)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Saving goes through `BitEmbedder.save_pretrained`."""
        return False

    @property
    def is_trainable(self) -> bool:
        return False
