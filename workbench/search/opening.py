"""An index on disk, whichever kind it is of."""

import os
from pathlib import Path

from workbench.search.approximate import approximate_search
from workbench.search.folder import IndexFolder
from workbench.search.index import PackedIndex


def open_index(path: str | os.PathLike[str], approximate: str | None = None) -> PackedIndex | IndexFolder:
    """Open a .safetensors file or a folder that `encode` wrote.

    Args:
        approximate: search through an index of this name, `faiss` or `usearch:b1` for example, which lies beside the
            vectors or is built and saved there; default exact search.

    Raises:
        FileNotFoundError: there is no such index.
        ValueError: a file is damaged, or the approximate index cannot be used; see `ApproximateSearch`.
    """
    if Path(path).is_dir():
        folder = IndexFolder.open(path)
        if approximate is not None:
            folder.search_with(approximate)
        return folder
    index = PackedIndex.open(path)
    if approximate is not None:
        index.searcher = approximate_search(path, index.vectors, approximate)
    return index
