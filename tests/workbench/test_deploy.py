"""Deployment: each step does what its command does, and says what is true."""

import contextlib
import gc
import io
import json
import shlex
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bitembed_core import BitEmbedder, StorageFormat
from workbench import cli, memory
from workbench import deploy_commands as as_command
from workbench.deploy import (
    DeployConfig,
    encode,
    export_model,
    export_to_engine,
    layout_of,
    load_and_measure,
    search,
    texts_file,
    write_report,
)
from workbench.search import PackedIndex


@pytest.fixture
def texts(tmp_path, sentences):
    path = tmp_path / "some texts.jsonl"
    rows = [{"id": f"s{i}", "text": text} for i, text in enumerate(sentences)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def ternary(tiny_embedder, sentences, tmp_path):
    tiny_embedder.convert("all", sentences)
    tiny_embedder.save_pretrained(tmp_path / "ternary", layout="latent")
    return str(tmp_path / "ternary")


@pytest.fixture
def config(ternary, texts, tmp_path):
    return DeployConfig(
        model=ternary,
        lengths=(8, 16),
        repeats=1,
        batch_size=2,
        input=str(texts),
        precision="int2-fitted",
        out=str(tmp_path / "out"),
        query="a million vectors",
        top=3,
        token_table="int8",
        engine="pgvector",
    )


def run(command):
    """What a command printed, given as one would type it."""
    program, *words = shlex.split(command)
    assert program == "bitembed"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(words) == 0, command
    return said.getvalue()


def test_every_step_is_what_its_command_does(config, sentences):
    embedder, measured = load_and_measure(config)
    assert run(as_command.bench_command(config)).count("\n") == 3 + len(measured.speed.together) + 1

    index = encode(embedder, config)
    expected = StorageFormat("int2-fitted", 32).encode(embedder.encode_document(sentences))
    np.testing.assert_array_equal(index.vectors.codes, expected.codes)
    config.index_path.unlink()
    run(as_command.encode_command(config))
    again = PackedIndex.open(config.index_path)
    np.testing.assert_array_equal(again.vectors.codes, index.vectors.codes)
    np.testing.assert_array_equal(again.vectors.scales, index.vectors.scales)
    assert again.table == index.table

    answer = search(embedder, index, config.query, config.top)
    query_D = embedder.encode_query([config.query])[0]
    scores = index.vectors.decode() @ query_D
    assert [hit.id for hit in answer.hits] == [f"s{row}" for row in np.argsort(-scores)[:3]]
    printed = run(as_command.search_command(config)).splitlines()
    assert [line.split()[2] for line in printed[1:]] == [hit.id for hit in answer.hits]

    exported = export_model(embedder, config)
    assert exported["layout"] == layout_of(embedder, config) == "packed"
    file = config.model_path("packed") / "model.safetensors"
    assert exported["weights"] == file.stat().st_size
    written = load_file(file)
    file.unlink()
    run(as_command.export_command(config, "packed"))
    again = load_file(file)
    assert written.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in written.items())
    assert any(name.endswith(".table") and tensor.dtype == torch.int8 for name, tensor in again.items())

    assert export_to_engine(index, config).rows == len(sentences)
    before = {path.name: path.read_bytes() for path in config.engine_path.iterdir()}
    run(as_command.engine_command(config))
    assert {path.name: path.read_bytes() for path in config.engine_path.iterdir()} == before

    report = json.loads(write_report(config, measured, index, answer, exported).read_text(encoding="utf-8"))
    assert report["index"]["bytes"] == len(sentences) * (32 * 2 // 8 + 4)
    assert report["answer"]["hits"][0][0] == answer.hits[0].id
    assert report["measured"]["speed"]["together"][0]["texts_per_second"] > 0
    assert report["config"]["precision"] == "int2-fitted"


def test_a_stored_token_table_is_exported_as_it_is(config, ternary, tmp_path):
    stored = tmp_path / "int8"
    BitEmbedder.from_pretrained(ternary).save_pretrained(stored, layout="packed", token_table="int8")
    config = replace(config, model=str(stored), token_table="stored")
    export_model(BitEmbedder.from_pretrained(stored), config)
    file = config.model_path("packed") / "model.safetensors"
    before = load_file(stored / "model.safetensors")
    for _ in range(2):
        written = load_file(file)
        assert written.keys() == before.keys()
        assert all(torch.equal(tensor, written[name]) for name, tensor in before.items())
        file.unlink()
        run(as_command.export_command(config, "packed"))


def test_program_for_python_finds_the_same(config):
    embedder, _ = load_and_measure(config)
    hits = search(embedder, encode(embedder, config), config.query, config.top).hits
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(as_command.usage(config), {})
    assert [line.split()[1] for line in said.getvalue().splitlines()] == [hit.id for hit in hits]


def test_measured_memory_is_counted_by_hand(config):
    embedder, measured = load_and_measure(config)
    tables, norms_and_biases = (260 + 128 + 2) * 32, 2 * 32 + 2 * (5 * 32 + 48 + 4 * 32 + 5 * 32 + 48)
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 48)
    stored = 4 * (tables + norms_and_biases + weights)
    integer_buffers = sum(b.nbytes for b in embedder.model.buffers())  # position and type ids
    assert measured.weights == stored + integer_buffers
    assert [t.tokens_per_text for t in measured.speed.together] == pytest.approx([8, 16], abs=2)
    alone = measured.speed.alone[0]
    assert alone.texts == 1
    assert alone.ms_per_text == pytest.approx(1000 / alone.texts_per_second)


def test_shared_tensors_count_once():
    first, second = nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)
    second.weight = first.weight
    assert memory.weight_bytes(nn.ModuleList([first, second])) == 4 * 15


def test_memory_is_given_back():
    before = memory.resident_bytes()
    if before is None:
        pytest.skip("this system does not say what a process holds")
    blocks = [torch.ones(16_000) for _ in range(2_000)]  # small enough for the C library to keep them
    held = memory.resident_bytes() - before
    assert held > 100e6
    del blocks
    memory.give_back()
    assert memory.resident_bytes() - before < held / 4


def test_a_model_that_is_left_is_gone(config):
    embedder, _ = load_and_measure(config)
    gone = weakref.ref(embedder.model)
    del embedder
    gc.collect()
    assert gone() is None


def test_documents_of_a_task_are_written_as_a_file_of_texts(config, monkeypatch):
    from workbench.catalog.task_data import RetrievalData
    from workbench.deploy import TASKS, TEXT_SETS

    data = RetrievalData({"a": ("Title", "first"), "b": ("", "second")}, {}, {})
    entry = type("Entry", (), {"load": lambda self: data})()
    monkeypatch.setitem(TASKS, TEXT_SETS[0], entry)
    chosen = DeployConfig(model=config.model, input=TEXT_SETS[0], out=config.out)
    path = texts_file(chosen)
    assert f"--input {shlex.quote(path)}" in as_command.encode_command(chosen)
    embedder, _ = load_and_measure(config)
    index = encode(embedder, chosen)
    assert [(row.id, row.text) for row in index.rows([0, 1])] == [("a", "Title first"), ("b", "second")]


def test_a_floating_point_model_is_exported_in_its_one_layout(tiny_model_folder, config, tmp_path):
    floating = DeployConfig(model=str(tiny_model_folder), lengths=(8,), repeats=1, out=str(tmp_path / "o"))
    embedder, measured = load_and_measure(floating)
    assert measured.kernel == "float"
    assert export_model(embedder, floating)["layout"] == "release"
    packed = DeployConfig(model=str(tiny_model_folder), layout="packed", out=str(tmp_path / "o"))
    with pytest.raises(ValueError, match="convert it first"):
        export_model(embedder, packed)
    nothing = DeployConfig(model=str(tiny_model_folder), layout="none")
    assert export_model(embedder, nothing) is None
    assert export_to_engine(None, nothing) is None
    with pytest.raises(ValueError, match="query is empty"):
        search(embedder, None, " ", 3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "int3"),
        ("batch_size", 0),
        ("repeats", 0),
        ("top", 0),
        ("lengths", (16, 0)),
        ("lengths", ()),
    ],
)
def test_senseless_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field.split("_")[0]):
        DeployConfig(**{field: value})


def test_missing_texts_and_models_are_said(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="ret_consumer_contracts"):
        texts_file(DeployConfig(input=str(tmp_path / "none.jsonl")))
    with pytest.raises(ValueError, match="or take the documents"):
        texts_file(DeployConfig(input=str(tmp_path / "none.txt")))
    with pytest.raises(FileNotFoundError, match="no model called"):
        load_and_measure(DeployConfig(model="nothing-of-that-name"))
