"""A whole ternary encoder in one native call. Its reference is the transformers model itself."""

from bitembed_core.ops.encoder.architecture import NotDescribed, describe
from bitembed_core.ops.encoder.native import NativeEncoder

__all__ = ["NativeEncoder", "NotDescribed", "describe"]
