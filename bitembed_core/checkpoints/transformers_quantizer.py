"""Our packed layout inside transformers: with `bitembed_core` imported, `AutoModel` and `SentenceTransformer` load it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bitembed_core.checkpoints.layouts import fit
from bitembed_core.checkpoints.quantization import (
    QUANT_METHOD,
    QuantizationSettings,
    check_stored_codes,
    prepare_packed,
)
from bitembed_core.checkpoints.tensor_files import read_tensors, verify_digests
from bitembed_core.conversion import freeze, use_kernel


@register_quantization_config(QUANT_METHOD)
class BitEmbedConfig(QuantizationConfigMixin):
    """`quantization_config` of `config.json`, see `QuantizationSettings`."""

    def __init__(self, **config: Any) -> None:
        self.quant_method = QUANT_METHOD
        self.settings = QuantizationSettings.from_json(config, "the model")
        if self.settings.layout != "packed":
            raise ValueError(
                f"layout {self.settings.layout!r} is for training; open it with BitEmbedder.from_pretrained, "
                "or export it with layout='packed'"
            )

    def to_dict(self) -> dict[str, Any]:
        return self.settings.to_json()


@register_quantizer(QUANT_METHOD)
class BitEmbedQuantizer(HfQuantizer):
    """Puts packed layers and tables in place before the weights arrive, and checks them."""

    requires_calibration = False

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> Any:
        settings = self.quantization_config.settings
        prepare_packed(model, settings)
        files = [Path(file) for file in checkpoint_files or ()]
        fit(model.state_dict(), read_tensors(files), "the model folder")
        verify_digests(files, required=settings.version > 1)
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        check_stored_codes(model)
        freeze(model)
        use_kernel(model, "auto")  # the model was on no device before
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Saving goes through `BitEmbedder.save_pretrained`."""
        return False

    @property
    def is_trainable(self) -> bool:
        return False
