"""A teacher's vectors are computed once, are the ones it computes, and outlive kills and other processes."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitembed_core import BitEmbedder
from bitembed_core.attention import capture_attention_states
from workbench.catalog.example import ExampleSource
from workbench.recipes import teacher_vectors
from workbench.recipes.checkpoints import trained_parameters
from workbench.recipes.distill import DistillConfig
from workbench.recipes.engine import Training
from workbench.recipes.teacher_vectors import TeacherVectors, token_keys
from workbench.rotation import rotate

Make = Callable[..., Training]
LOSSES = ("loss", "contrastive", "similarity", "regression")
CONFIG = DistillConfig(
    steps=4,
    save_every=2,
    batch_size=8,
    max_length=32,
    precision="float32",
    hard_negatives=2,
    relation_weight=0.0,
    relation_heads=4,
    regression_weight=1.0,
)


@pytest.fixture
def teacher(make_teacher: Callable[[], BitEmbedder]) -> BitEmbedder:
    return make_teacher()


@pytest.fixture
def source(made_up_source: Callable[..., ExampleSource]) -> ExampleSource:
    """Two batches: every text is met again in later epochs."""
    return made_up_source("a", 16, negatives=2)


@pytest.fixture
def train(make_training: Make, source: ExampleSource, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def run(config: DistillConfig, kept: bool = True) -> list[dict[str, Any]]:
        training = make_training(
            config, sources=[source], teacher_vectors=tmp_path / "kept" if kept else None
        )
        return list(training.records())

    return run


def keep(folder: Path, teacher: BitEmbedder, texts: list[str]) -> torch.Tensor:
    """The vectors (N, d) that were written."""
    kept = TeacherVectors(folder, teacher, torch.float32)
    with torch.no_grad():
        vectors_ND = teacher.embed(teacher.tokenize(texts))
    kept.add(token_keys(teacher.tokenize(texts)), vectors_ND)
    kept.write()
    return vectors_ND


def layer_calls(embedder: BitEmbedder, layer: int) -> list[int]:
    """How many tokens went through a layer of `embedder`, by forward, from now on."""
    calls: list[int] = []
    embedder.model.encoder.layer[layer].register_forward_pre_hook(
        lambda _, inputs: calls.append(inputs[0].shape[:2].numel())
    )
    return calls


def texts_read(embedder: BitEmbedder) -> list[int]:
    """How many texts `embedder` read, by forward, from now on: each has one token at its beginning."""
    calls: list[int] = []
    first = embedder.tokenizer.cls_token_id
    embedder.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, inputs: calls.append(int((inputs[0] == first).sum()))
    )
    return calls


def test_kept_vectors_are_computed_ones_rounded_to_float16(
    tmp_path: Path, teacher: BitEmbedder, sentences: list[str]
) -> None:
    computed_ND = keep(tmp_path, teacher, sentences)
    kept = TeacherVectors(tmp_path, teacher, torch.float32)
    keys = token_keys(teacher.tokenize(sentences[::-1]))  # padded otherwise, in another order
    assert not len(kept.missing(keys))
    found_ND = kept.get(keys)
    assert found_ND.dtype == torch.float32
    assert torch.equal(found_ND, computed_ND.flip(0).half().float())
    similarities = found_ND @ found_ND.T - computed_ND.flip(0) @ computed_ND.flip(0).T
    assert similarities.abs().max() < 2**-11  # half a float16 step at 1, however the roundings add up


def test_other_token_ids_are_other_texts_and_padding_is_none(teacher: BitEmbedder) -> None:
    short, long = teacher.tokenize(["w1"]), teacher.tokenize(["w1", "w1 w2 w3 w4 w5 w6 w7 w8"])
    assert token_keys(short)[0] == token_keys(long)[0] != token_keys(long)[1]
    assert len(set(token_keys(teacher.tokenize(["w1", "W1", "query: w1"])))) == 3


def test_another_teacher_arithmetic_or_rotation_has_vectors_of_its_own(
    tmp_path: Path, teacher: BitEmbedder
) -> None:
    folders = [TeacherVectors(tmp_path, teacher, dtype).folder for dtype in (torch.float32, torch.bfloat16)]
    with torch.no_grad():
        next(teacher.model.parameters()).add_(1e-3)
    folders.append(TeacherVectors(tmp_path, teacher, torch.float32).folder)
    rotate(teacher, "random", [], seed=0)
    folders.append(TeacherVectors(tmp_path, teacher, torch.float32).folder)
    assert len(set(folders)) == 4


def test_two_processes_add_to_one_folder(tmp_path: Path, teacher: BitEmbedder, sentences: list[str]) -> None:
    tokens = teacher.tokenize(sentences)
    keys, vectors_ND = token_keys(tokens), teacher.embed(tokens).detach()
    one, two = (TeacherVectors(tmp_path, teacher, torch.float32) for _ in range(2))
    one.add(keys[:5], vectors_ND[:5])
    two.add(keys[3:], vectors_ND[3:])
    one.write()
    two.write()
    assert len(two) == len(sentences)
    assert list(one.missing(keys)) == list(range(5, len(keys)))
    one.write()
    for kept in (one, two, TeacherVectors(tmp_path, teacher, torch.float32)):
        assert not len(kept.missing(keys))
        assert torch.equal(kept.get(keys), vectors_ND.half().float())


def test_full_memory_is_written_without_being_told(
    tmp_path: Path, teacher: BitEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_vectors, "VECTORS_PER_FILE", 4)
    kept = TeacherVectors(tmp_path, teacher, torch.float32)
    for start in range(0, 10, 2):
        kept.add(np.arange(start, start + 2), torch.ones(2, teacher.dimension) * start)
    assert len(list(kept.folder.glob("*.safetensors"))) == 2
    assert kept.get(np.arange(10))[:, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert len(TeacherVectors(tmp_path, teacher, torch.float32)) == 8


def test_a_kill_while_writing_leaves_what_was_there(
    tmp_path: Path, teacher: BitEmbedder, sentences: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, teacher, sentences[:4])
    child = os.fork()
    if child == 0:

        def half(_: object, path: Path) -> None:
            path.write_bytes(b"\x40\0\0\0\0\0\0\0{")
            os.kill(os.getpid(), signal.SIGKILL)

        teacher_vectors.save_file = half
        kept = TeacherVectors(tmp_path, teacher, torch.float32)
        kept.add(np.arange(3), torch.zeros(3, teacher.dimension))
        kept.write()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    kept = TeacherVectors(tmp_path, teacher, torch.float32)
    assert len(kept) == 4
    (kept.folder / "damaged.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")  # by the disk
    kept.write()
    assert "damaged.safetensors is damaged and left out" in caplog.text
    assert len(TeacherVectors(tmp_path, teacher, torch.float32)) == 4


def test_training_with_kept_vectors_is_training_with_the_teacher(
    train: Callable[..., list[dict[str, Any]]],
) -> None:
    """To float16 rounding at first, and exactly once it is rounded: with an empty folder, a full one, or in chunks."""
    computed = train(replace(CONFIG, out="computed"), kept=False)
    first, second = train(replace(CONFIG, out="first")), train(replace(CONFIG, out="second"))
    chunked = train(replace(CONFIG, out="chunked", chunk_tokens=200))
    for expected, *found in zip(computed, first, chunked, strict=True):
        for record in found:
            assert [record[name] for name in LOSSES] == pytest.approx(
                [expected[name] for name in LOSSES], rel=2e-3
            )
    assert [[r[name] for name in LOSSES] for r in first] == [[r[name] for name in LOSSES] for r in second]


@pytest.mark.parametrize("chunk", [None, 200])
def test_a_text_goes_through_the_teacher_once(
    make_training: Make, source: ExampleSource, tmp_path: Path, chunk: int | None
) -> None:
    calls = []
    for out in ("first", "second"):
        training = make_training(
            replace(CONFIG, out=out, chunk_tokens=chunk), sources=[source], teacher_vectors=tmp_path / "kept"
        )
        calls.append(texts_read(training.teacher))
        assert len(list(training.records())) == 4
    texts = {text for example in source.examples for text in example.texts}
    assert sum(calls[0]) == len(texts)
    assert calls[1] == []


@pytest.mark.parametrize("chunk", [None, 200])
def test_relations_need_the_teacher_up_to_their_layer(
    make_training: Make, source: ExampleSource, tmp_path: Path, chunk: int | None
) -> None:
    config = replace(CONFIG, relation_weight=1.0, relation_layer=0, chunk_tokens=chunk)
    computed = list(make_training(replace(config, out="computed"), sources=[source]).records())
    for out in ("first", "second"):
        training = make_training(
            replace(config, out=out), sources=[source], teacher_vectors=tmp_path / "kept"
        )
        below, above = texts_read(training.teacher), layer_calls(training.teacher, 1)
        records = list(training.records())
        for expected, found in zip(computed, records, strict=True):
            for name in (*LOSSES, "relations"):
                assert found[name] == pytest.approx(expected[name], rel=2e-3)
    assert sum(below) == 4 * 8 * 4  # steps, examples, texts
    assert above == []


def test_states_are_the_same_when_the_forward_ends_with_them(
    teacher: BitEmbedder, sentences: list[str]
) -> None:
    tokens = teacher.tokenize(sentences)
    above = layer_calls(teacher, 1)
    with torch.no_grad(), capture_attention_states(teacher.model, 0) as whole:
        teacher.embed(tokens)
    reached_the_end = len(above)
    with torch.no_grad(), capture_attention_states(teacher.model, 0, and_stop=True) as part:
        teacher.embed(tokens)
    assert len(above) == reached_the_end == 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(part.states, whole.states, strict=True))
    assert teacher.model.config._attn_implementation == "sdpa"


def test_a_run_that_was_killed_goes_on_exactly(
    make_training: Make, source: ExampleSource, tmp_path: Path
) -> None:
    """Also where vectors were written after the checkpoint that it goes on from."""

    def training(out: str) -> Training:
        config = replace(CONFIG, out=out, batch_size=4, steps=6, save_every=3)
        return make_training(config, sources=[source], teacher_vectors=tmp_path / out / "kept")

    whole = training("whole")
    expected = list(whole.records())
    killed = training("killed")
    early: Iterator[dict[str, Any]] = islice(killed.records(), 5)
    losses = [record["loss"] for record in early][:3]
    killed.imitated.write()
    resumed = training("killed")
    losses += [record["loss"] for record in resumed.records()]
    assert losses == [record["loss"] for record in expected]
    for name, parameter in trained_parameters(whole.student.model).items():
        assert torch.equal(parameter, resumed.student.model.get_parameter(name)), name
