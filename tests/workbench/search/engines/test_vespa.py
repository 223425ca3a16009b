"""Vespa's files, and a loader against a server that compares vectors as the files say."""

import json
import threading
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.workbench.search.engines.agreement import (
    TOP,
    agrees_with_codes,
    agrees_with_the_index,
    has_every_row,
)
from tests.workbench.search.engines.vespa_server import VespaServer
from workbench.search.engines import export_index, load_export, open_store
from workbench.search.engines.metadata import texts
from workbench.search.engines.vectors import stored


@pytest.fixture
def serve():
    """`serve(folder)`: a server for the application in an export folder."""
    servers = []

    def start(folder):
        (schema,) = (folder / "application" / "schemas").iterdir()
        server = VespaServer(schema)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("precision", "vectors"),
    [("int4", "float16"), ("int8-60d", "float32"), ("binary", "packed"), ("int8", "packed")],
)
def test_load_and_search(precision, vectors, exported, queries, tmp_path, serve):
    index = exported(precision)
    export = export_index(index, "vespa", tmp_path / "out", vectors, "notes")
    server = serve(tmp_path / "out")
    for _ in range(2):
        load_export(tmp_path / "out", server.url)
    assert list(server.documents) == index.ids()
    store = open_store(tmp_path / "out", server.url)
    if vectors == "packed":
        agrees_with_codes(store.search(queries, TOP), index, queries, export.type)
    else:
        agrees_with_the_index(store.search(queries, TOP), index, queries)
    has_every_row(store.search, index, queries[:1], texts)


def test_files_are_as_vespa_documents_them(exported, tmp_path):
    index = exported("int8")
    export_index(index, "vespa", tmp_path / "out", "packed", "notes")
    schema = (tmp_path / "out" / "application" / "schemas" / "notes.sd").read_text()
    assert schema.startswith("schema notes {\n    document notes {\n")
    assert schema.count("{") == schema.count("}")
    assert "tensor<int8>(x[100])" in schema
    services = ElementTree.parse(tmp_path / "out" / "application" / "services.xml").getroot()
    assert services.find("content/documents/document").get("type") == "notes"
    assert services.find("container/document-api") is not None
    with (tmp_path / "out" / "feed.jsonl").open(encoding="utf-8") as feed:
        operations = list(map(json.loads, feed))
    assert [operation["put"] for operation in operations] == [f"id:notes:notes::{id_}" for id_ in index.ids()]
    codes = [bytes.fromhex(operation["fields"]["embedding"]["values"]) for operation in operations]
    assert np.array_equal(
        np.frombuffer(b"".join(codes), np.int8).reshape(-1, 100), stored(index.vectors, "int8")
    )


def test_a_busy_server_is_asked_again_and_a_refusal_is_said(exported, tmp_path, serve, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    export_index(exported("binary"), "vespa", tmp_path / "out", "packed")
    server = serve(tmp_path / "out")
    server.answers_busy = 5
    load_export(tmp_path / "out", server.url)
    assert len(server.documents) == 1200
    server.answers_busy = 100
    with pytest.raises(OSError, match=r"429.*too many requests"):
        load_export(tmp_path / "out", server.url)
    export_index(exported("binary"), "vespa", tmp_path / "other", "packed", "others")
    server.answers_busy = 0
    with pytest.raises(OSError, match=r"404.*no such path"):
        load_export(tmp_path / "other", server.url)
    with pytest.raises(ValueError, match="URL"):
        load_export(tmp_path / "out", "localhost:8080")
