"""Exact search over stored embeddings, and making such an index from a file of texts."""

from workbench.search.encode_file import encode_file, encode_to_folder
from workbench.search.folder import IndexFolder
from workbench.search.index import Hit, PackedIndex

__all__ = ["Hit", "IndexFolder", "PackedIndex", "encode_file", "encode_to_folder"]
