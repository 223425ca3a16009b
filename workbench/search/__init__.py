"""Exact search over stored embeddings, and making such an index from a file of texts."""

from workbench.search.encode_file import encode_file
from workbench.search.index import Hit, PackedIndex

__all__ = ["Hit", "PackedIndex", "encode_file"]
