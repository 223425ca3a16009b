"""Embeddings in few bits: rounding (Eq 10 and 11), packing into bytes, comparing what was packed."""

from bitembed_core.storage.formats import StorageFormat
from bitembed_core.storage.output_quantizer import decode_codes, fake_quantize_output, output_codes
from bitembed_core.storage.packed import PackedEmbeddings
from bitembed_core.storage.precisions import PRECISIONS

__all__ = [
    "PRECISIONS",
    "PackedEmbeddings",
    "StorageFormat",
    "decode_codes",
    "fake_quantize_output",
    "output_codes",
]
