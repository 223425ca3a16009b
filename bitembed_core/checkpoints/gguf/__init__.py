"""GGUF: one file with weights, configuration and tokenizer, for llama.cpp and its relatives."""

from bitembed_core.checkpoints.gguf.container import GGUFFile
from bitembed_core.checkpoints.gguf.read import is_read_here, read_model, read_settings
from bitembed_core.checkpoints.gguf.write import GGUF_TYPES, GGUFType, write_model

__all__ = ["GGUF_TYPES", "GGUFFile", "GGUFType", "is_read_here", "read_model", "read_settings", "write_model"]
