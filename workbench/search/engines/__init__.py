"""An index in the engines that others run: Qdrant, Milvus, LanceDB, PostgreSQL with pgvector, and Vespa.

`export_index` writes a folder with the engine's own files: ids, texts and metadata beside the vectors; `open_store` connects
to an engine that runs, or to an embedded one, and its `load` brings those files in. How vectors are stored there is said in
`vectors`, and `metadata` says how the metadata of a text is.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from bitembed_core.files import atomic_path
from workbench.search.engines import lancedb, milvus, pgvector, qdrant, vespa
from workbench.search.engines.export import MANIFEST_FILE, NAME, ROWS_AT_ONCE, Batch, Engine, Export, Store
from workbench.search.engines.vectors import VECTORS, VectorType, stored, vector_type
from workbench.search.folder import IndexFolder
from workbench.search.index import PackedIndex

__all__ = ["ENGINES", "VECTORS", "Export", "Store", "export_index", "load_export", "open_store"]

ENGINES: dict[str, Engine] = {
    "qdrant": qdrant.ENGINE,
    "milvus": milvus.ENGINE,
    "lancedb": lancedb.ENGINE,
    "pgvector": pgvector.ENGINE,
    "vespa": vespa.ENGINE,
}


def export_index(
    index: PackedIndex | IndexFolder,
    engine: str,
    out: str | os.PathLike[str],
    vectors: str = "float16",
    name: str = "texts",
) -> Export:
    """Write an index as a folder of an engine's own files, with an `export.json` that says what they are.

    Args:
        engine: a name of ENGINES.
        vectors: `float16` or `float32` values for an engine that quantizes by itself, or `packed` for our codes.
        name: of the table, collection or schema that the engine will have.

    Raises:
        ValueError: `out` holds something else than an export,
            an unknown engine, codes that the engine has no type for, a name that not every engine takes, an id that
            is there twice, or an id, text or metadata that the engine cannot hold.
        OSError: the disk is full or not writable.
        After any error there is what there was before.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if not NAME.fullmatch(name):
        raise ValueError(f"a name has up to 48 of a-z, 0-9 and _ and begins with a letter, unlike {name!r}")
    out = Path(out)
    is_export = (out / MANIFEST_FILE).is_file() or (out.is_dir() and not any(out.iterdir()))
    if out.exists() and not is_export:
        raise ValueError(
            f"{out} holds something else than an export, which would be lost; choose another folder"
        )
    type_ = vector_type(index.format, vectors, engine, ENGINES[engine].types)
    if len(set(index.ids())) != len(index):
        raise ValueError("an id is there twice, and an engine would keep one of the two texts")
    with atomic_path(out) as fresh:
        fresh.mkdir()
        export = Export(fresh, engine, name, type_, index.format, len(index))
        ENGINES[engine].write(export, _batches(index, type_), index.columns)
        export.save()
    return Export.open(out)


def open_store(folder: str | os.PathLike[str], target: str, **options: Any) -> Store:
    """The engine at `target`, for the export in a folder.

    Args:
        target: where the engine is; see `QdrantStore`, `MilvusStore`, `LanceStore`, `PostgresStore` and `VespaStore`.
        options: for the engine's client, such as keys.

    Raises:
        FileNotFoundError: there is no export.
        ValueError: it is damaged, or the engine's client is not installed.
    """
    export = Export.open(folder)
    return ENGINES[export.engine].store(export, target, **options)


def load_export(folder: str | os.PathLike[str], target: str) -> Export:
    """Bring an export into the engine at `target`; OSError for whatever the engine complains about."""
    export = Export.open(folder)
    try:
        with closing(open_store(folder, target)) as store:
            store.load()
    except (ValueError, OSError):
        raise
    except Exception as error:  # each client has errors of its own
        raise OSError(f"{export.engine} refused: {error}") from error
    return export


def _batches(index: PackedIndex | IndexFolder, type_: VectorType) -> Iterator[Batch]:
    for vectors, rows in index.batches(ROWS_AT_ONCE):
        yield Batch(rows, stored(vectors, type_))
