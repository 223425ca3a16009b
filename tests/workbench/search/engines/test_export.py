"""What an export folder holds, and what is refused before anything is written."""

import importlib
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow.parquet as pq
import pytest

from bitembed_core import StorageFormat
from workbench import cli, index_commands
from workbench.search import PackedIndex
from workbench.search.engines import ENGINES, Export, export_index, load_export
from workbench.search.engines.metadata import json_object, json_text, texts
from workbench.search.engines.vectors import asked, stored

EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES)


def small(precision="int8", ids=("a", "b"), texts=("one", "two"), metadata=None) -> PackedIndex:
    x = np.random.default_rng(0).standard_normal((len(ids), 16)).astype(np.float32)
    return PackedIndex(StorageFormat(precision, 16).encode(x), ids, texts, metadata)


def test_command_line_knows_every_engine():
    assert tuple(ENGINES) == index_commands.ENGINE_NAMES


@EVERY_ENGINE
def test_codes_that_do_not_fit_are_refused_with_those_that_do(engine, tmp_path):
    with pytest.raises(ValueError, match=r"no type for int4 codes.*binary, binary-fitted.*float16"):
        export_index(small("int4"), engine, tmp_path / "out", "packed")
    if "int8" not in ENGINES[engine].types:
        with pytest.raises(
            ValueError, match=r"no type for int8 codes, only for those of binary, binary-fitted"
        ):
            export_index(small("int8"), engine, tmp_path / "out", "packed")
    assert not (tmp_path / "out").exists()


@EVERY_ENGINE
@pytest.mark.parametrize("name", ["", "Texts", "1st", 'a"b', "a-b", "a" * 49])
def test_names_that_some_engine_would_not_take(engine, name, tmp_path):
    with pytest.raises(ValueError, match="begins with a letter"):
        export_index(small(), engine, tmp_path / "out", name=name)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    export_index(small(), "qdrant", folder)  # an empty one is taken
    export_index(small(ids=("c", "d")), "lancedb", folder)  # and an export is replaced
    assert Export.open(folder).engine == "lancedb"
    (folder / "export.json").unlink()
    (folder / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="something else than an export"):
        export_index(small(), "qdrant", folder)
    assert (folder / "letter.txt").read_text() == "dear"
    with pytest.raises(ValueError, match="something else than an export"):
        export_index(small(), "qdrant", folder / "letter.txt")


def test_other_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="choose one of qdrant, milvus"):
        export_index(small(), "oracle", tmp_path / "out")
    with pytest.raises(ValueError, match="float16, float32, packed"):
        export_index(small(), "qdrant", tmp_path / "out", "int8")
    with pytest.raises(ValueError, match="twice"):
        export_index(small(ids=("a", "a")), "qdrant", tmp_path / "out")


@pytest.mark.parametrize(
    ("engine", "ids", "texts", "reason"),
    [
        ("pgvector", ("a", "b"), ("one", "t\0wo"), "NUL"),
        ("pgvector", ("a", "\0"), ("one", "two"), "NUL"),
        ("vespa", ("a", "b"), ("one", "t\x1bwo"), "control characters"),
        ("vespa", ("a", "b\uffff"), ("one", "two"), "control characters"),
        ("vespa", ("a", ""), ("one", "two"), "empty"),
        ("milvus", ("a", "b"), ("one", "ü" * 32768), "65535 bytes"),
    ],
)
def test_texts_that_an_engine_cannot_hold_leave_what_was_there(engine, ids, texts, reason, tmp_path):
    export_index(small(), engine, tmp_path / "out")
    with pytest.raises(ValueError, match=reason):
        export_index(small(ids=ids, texts=texts), engine, tmp_path / "out")
    assert Export.open(tmp_path / "out").rows == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    if reason != "empty":
        odd = {"mark": "".join((*ids, *texts))}
        with pytest.raises(ValueError, match=reason):
            export_index(small(metadata=[{}, odd]), engine, tmp_path / "out")


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "a\\", "\\\0", "\0"])
def test_a_nul_is_told_from_a_text_about_one(text, tmp_path):
    index = small(metadata=[{"mark": text}, {}])
    if "\0" in text:
        with pytest.raises(ValueError, match="NUL"):
            export_index(index, "pgvector", tmp_path / "out")
    else:
        export_index(index, "pgvector", tmp_path / "out")


def test_metadata_in_the_types_of_json():
    odd = {
        "day": date(2026, 2, 3),
        "moment": datetime(2026, 2, 3, 4, 5, tzinfo=UTC),
        "price": Decimal("1.50"),
        "nothing": float("nan"),
        "list": [1, float("inf"), {"deep": date(2026, 2, 3)}],
        "is": True,
        "text": 'ü "quoted"',
    }
    wanted = {
        "day": "2026-02-03",
        "moment": "2026-02-03T04:05:00+00:00",
        "price": "1.50",
        "nothing": None,
        "list": [1, None, {"deep": "2026-02-03"}],
        "is": True,
        "text": 'ü "quoted"',
    }
    assert json_object(odd) == json.loads(json_text(odd)) == wanted
    assert texts(odd) == {
        "day": "2026-02-03",
        "moment": "2026-02-03T04:05:00+00:00",
        "price": "1.50",
        "list": '[1, null, {"deep": "2026-02-03"}]',
        "is": "true",
        "text": 'ü "quoted"',
    }


@EVERY_ENGINE
def test_an_empty_index(engine, tmp_path):
    index = PackedIndex(StorageFormat("binary", 16).encode(np.zeros((0, 16), np.float32)), [], [])
    assert export_index(index, engine, tmp_path / "out", "packed").rows == 0


def test_folders_that_are_no_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="export-index"):
        Export.open(tmp_path)
    export_index(small(), "lancedb", tmp_path / "out")
    manifest = tmp_path / "out" / "export.json"
    said = json.loads(manifest.read_text())
    for change, reason in [
        ({"version": 1}, "version 2; make it again"),
        ({"type": "int3"}, "damaged"),
        ({"name": '"'}, "damaged"),
    ]:
        manifest.write_text(json.dumps({**said, **change}))
        with pytest.raises(ValueError, match=reason):
            Export.open(tmp_path / "out")


@pytest.mark.parametrize("engine", ["qdrant", "milvus", "lancedb", "pgvector"])
def test_a_missing_client_is_named(engine, tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    export_index(small(), engine, tmp_path / "out")
    with pytest.raises(ValueError, match="pip install"):
        load_export(tmp_path / "out", str(tmp_path / "target"))


def test_milvus_files(tmp_path):
    """Types that Milvus Lite does not have: the files are as bulk import takes them."""
    index = small("int8")
    export_index(index, "milvus", tmp_path / "out", "packed")
    body = json.loads((tmp_path / "out" / "collection.json").read_text())
    vector = body["schema"]["fields"][2]
    assert (vector["dataType"], vector["elementTypeParams"]) == ("Int8Vector", {"dim": 16})
    assert body["indexParams"][0]["metricType"] == "COSINE"
    rows = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert str(rows.schema.field("vector").type).endswith("int8>")
    assert np.array_equal(np.array(rows["vector"].to_pylist()), stored(index.vectors, "int8"))
    export_index(index, "milvus", tmp_path / "out", "float16")
    rows = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert np.array_equal(
        np.array(rows["vector"].to_pylist(), np.uint8).view(np.float16), stored(index.vectors, "float16")
    )


def test_signed_codes_find_what_the_index_finds(exported, queries):
    """Levels 0 .. 255 as -128 .. 127, both sides rounded: nearly the order of cosines in the index."""
    index = exported("int8")
    codes_ND, codes_QD = (
        codes.astype(float) for codes in (stored(index.vectors, "int8"), asked(queries, index.format, "int8"))
    )
    cosines_QN = codes_QD @ (codes_ND / np.linalg.norm(codes_ND, axis=1, keepdims=True)).T
    best = np.argsort(-cosines_QN, axis=1)[:, :10]
    expected = index.best(queries, 10).rows
    assert (
        np.mean([len(set(one) & set(other)) / 10 for one, other in zip(best, expected, strict=True)]) >= 0.95
    )


def test_commands(exported, tmp_path, capsys):
    pytest.importorskip("lancedb")
    index = exported("binary")
    index.save(tmp_path / "v.safetensors")
    out, target = str(tmp_path / "out"), str(tmp_path / "lance")
    argv = ["export-index", "--index", str(tmp_path / "v.safetensors"), "--engine", "lancedb", "--out", out]
    assert cli.main([*argv, "--vectors", "packed"]) == 0
    assert "1200 texts for lancedb, vectors as bits" in capsys.readouterr().out
    assert cli.main(["load-index", "--export", out, "--into", target]) == 0
    assert "1200 texts are in lancedb under the name texts" in capsys.readouterr().out
    assert cli.main(["load-index", "--export", str(tmp_path), "--into", target]) == 2
    assert capsys.readouterr().err.startswith("bitembed load-index: there is no export in")
