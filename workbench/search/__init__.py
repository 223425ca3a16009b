"""Search over stored embeddings, exact, approximate or in two steps, and making an index from a file of texts."""

from workbench.search.approximate import ApproximateSearch, approximate_search
from workbench.search.encode_file import encode_file
from workbench.search.encode_folder import encode_to_folder
from workbench.search.exact import ExactSearch
from workbench.search.folder import IndexFolder
from workbench.search.index import Hit, PackedIndex, hits
from workbench.search.opening import open_index
from workbench.search.rescoring import Rescored, same_texts
from workbench.search.text_source import TextSource
from workbench.search.vector_search import Found, VectorSearch

__all__ = [
    "ApproximateSearch",
    "ExactSearch",
    "Found",
    "Hit",
    "IndexFolder",
    "PackedIndex",
    "Rescored",
    "TextSource",
    "VectorSearch",
    "approximate_search",
    "encode_file",
    "encode_to_folder",
    "hits",
    "open_index",
    "same_texts",
]
