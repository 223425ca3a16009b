"""The mathematics and the model of BitEmbed: ternary text embedders and low-bit embeddings."""

from bitembed_core.bitlinear import BitLinear
from bitembed_core.checkpoints.transformers_quantizer import BitEmbedConfig
from bitembed_core.conversion import convert_to_bitnet
from bitembed_core.embedder import BitEmbedder
from bitembed_core.storage import PackedEmbeddings, StorageFormat

__all__ = [
    "BitEmbedConfig",
    "BitEmbedder",
    "BitLinear",
    "PackedEmbeddings",
    "StorageFormat",
    "convert_to_bitnet",
]
