"""Relations and divergences restated in float64 from the models' own states, without padding."""

import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from bitembed_core.attention import capture_attention_states
from bitembed_core.losses import AttentionRelationDistillation
from workbench.recipes.convert import ConvertConfig
from workbench.relations import (
    MOST_TEXTS,
    PHIS,
    SAMPLE_TEXTS,
    Relations,
    RelationsConfig,
    average,
    load_models,
    most_changed_pair,
    read,
    relate,
    relation_heads,
    texts_of,
    token_label,
    undistilled,
)
from workbench.runs import Run

TEXT = "the cat sat"  # 11 bytes, so padding follows in every architecture


def pair_of(make_embedder, architecture):
    """A teacher and what is left of it after conversion."""
    student = make_embedder(architecture)
    student.convert()
    return {"teacher": make_embedder(architecture), "before": student}


def unpadded_states(embedder, text, layer):
    """Q, K, V of one layer as (T, width) with the heads side by side, from a forward without padding or mask."""
    ids = torch.tensor([embedder.tokenizer(text)["input_ids"]])
    with torch.no_grad(), capture_attention_states(embedder.model, layer) as capture:
        embedder.model(input_ids=ids)
    return [phi[0].transpose(0, 1).flatten(1).double().numpy() for phi in capture.states]


def restated(states_TW, heads, head, temperature):
    """softmax(A A^T / t) of one relation head."""
    width = states_TW.shape[1] // heads
    a = states_TW[:, head * width : (head + 1) * width]
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    weights = np.exp(a @ a.T / (math.sqrt(width) if temperature is None else temperature))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("architecture", ["bert", "qwen3", "gemma3"])
@pytest.mark.parametrize("temperature", [0.1, None])
def test_maps_and_divergences_restated(make_embedder, architecture, temperature):
    by_name = pair_of(make_embedder, architecture)
    found = relate(read(by_name, TEXT, 48), heads=8, temperature=temperature)
    for layer in range(2):
        states = {name: unpadded_states(embedder, TEXT, layer) for name, embedder in by_name.items()}
        for index, phi in enumerate(PHIS):
            for head in range(8):
                r = {name: restated(s[index], 8, head, temperature) for name, s in states.items()}
                for name, expected in r.items():
                    np.testing.assert_allclose(found.maps[name][phi][layer, head], expected, atol=2e-5)
                kl = (r["teacher"] * np.log(r["teacher"] / r["before"])).sum(axis=1)
                np.testing.assert_allclose(found.divergence["before"][phi][layer, head], kl, atol=2e-5)
    assert found.divergence["before"]["Q"].max() > 1e-4  # else the comparison above says nothing


@pytest.mark.parametrize("heads", [8, 3])  # 3 does not divide the widths; their common divisor does
def test_average_is_the_loss_that_trains(make_embedder, sentences, heads):
    by_name = pair_of(make_embedder, "qwen3")
    mean = average([relate(read(by_name, text, 128), heads, 0.1) for text in sentences])
    batch = by_name["teacher"].tokenize(sentences)
    for layer in range(2):
        states = {}
        for name, embedder in by_name.items():
            with torch.no_grad(), capture_attention_states(embedder.model, layer) as capture:
                embedder.embed(batch)
            states[name] = capture.states
        loss = AttentionRelationDistillation(heads, 0.1)
        expected = loss(states["before"], states["teacher"], batch["attention_mask"]).item()
        assert mean.by_layer("before")[layer] == pytest.approx(expected, rel=1e-3)
    assert (mean.texts, mean.tokens) == (len(sentences), int(batch["attention_mask"].sum()))


def test_a_deeper_teacher_is_compared_at_the_same_share_of_its_depth(make_embedder):
    teacher, student = make_embedder("bert"), make_embedder("bert")
    student.model.encoder.layer = student.model.encoder.layer[:1]
    student.model.config.num_hidden_layers = 1
    states = read({"teacher": teacher, "before": student}, TEXT, 48)
    assert [len(layers) for layers in states.layers.values()] == [1, 1]
    expected = unpadded_states(teacher, TEXT, layer=1)[0]
    actual = states.layers["teacher"][0].queries[0].transpose(0, 1).flatten(1)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_long_texts_are_cut_and_say_so(make_embedder):
    by_name = pair_of(make_embedder, "bert")
    long, short = read(by_name, "abcdefghij", 6), read(by_name, "abcd", 6)
    assert long.tokens == ["<cls>", "a", "b", "c", "d", "<sep>"]
    assert long.cut
    assert short.tokens == long.tokens
    assert not short.cut
    assert len(read(by_name, "a" * 500, 1000).tokens) == 128  # what the models read


def test_other_tokenizers_are_refused(make_embedder):
    by_name = {"teacher": make_embedder("bert"), "before": make_embedder("qwen3")}
    with pytest.raises(ValueError, match="different tokenizers"):
        read(by_name, TEXT, 48)


def tokenizer_of(pieces, decoder):
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=pieces[0]))
    tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=pieces[0])


@pytest.mark.parametrize(
    ("pieces", "decoder", "labels"),
    [
        (["[UNK]", "play", "##ing", "."], decoders.WordPiece(), ["[UNK]", "play", "ing", "."]),
        (["<unk>", "\u2581play", "ing", "\u2581"], decoders.Metaspace(), ["<unk>", "play", "ing", "\u2423"]),
        (
            ["<unk>", "\u0120play", "\u00c3", "\u010a"],
            decoders.ByteLevel(),
            ["<unk>", "play", "\u00c3", "\u21b5"],
        ),
    ],
)
def test_labels_are_readable(tiny_embedder, pieces, decoder, labels):
    tiny_embedder._tokenizer = tokenizer_of(pieces, decoder)
    assert [token_label(tiny_embedder, token) for token in range(len(pieces))] == labels


@pytest.fixture
def folders(make_embedder, tmp_path):
    """A floating-point model, the run that made a ternary one from it, and the model folder in that run."""
    make_embedder("bert").save_pretrained(tmp_path / "float")
    student = make_embedder("bert")
    student.convert()
    run = Run.create(tmp_path / "run", ConvertConfig(backbone=str(tmp_path / "float")))
    student.save_pretrained(run.latent, layout="latent")
    return str(tmp_path / "float"), str(run.path), str(run.latent)


def test_without_a_student_the_teacher_is_made_ternary(folders):
    by_name = load_models(RelationsConfig(teacher=folders[0]))
    assert list(by_name) == ["teacher", "before"]
    assert [embedder.is_ternary for embedder in by_name.values()] == [False, True]
    relations = relate(read(by_name, TEXT, 48), relation_heads(RelationsConfig(), by_name), 0.1)
    assert relations.maps["before"]["K"].shape == (2, 4, 13, 13)  # 4 attention heads; <cls> and <sep>


@pytest.mark.parametrize("sites", ["all", "output"])
def test_what_a_run_began_with_is_its_state_before(folders, sites):
    backbone, run, _ = folders
    config = RelationsConfig(teacher="no-such-model", student=run, sites=sites)
    expected = undistilled(RelationsConfig(teacher=backbone, sites=sites))
    found = undistilled(config)  # so the teacher is not looked at
    np.testing.assert_allclose(found.encode(TEXT), expected.encode(TEXT), atol=1e-6)


def test_a_ternary_state_before_is_taken_as_it_is(folders):
    backbone, run, latent = folders
    by_name = load_models(RelationsConfig(teacher=backbone, student=run, before=latent))
    np.testing.assert_allclose(by_name["before"].encode(TEXT), by_name["after"].encode(TEXT), atol=1e-3)
    with pytest.raises(ValueError, match=r"ternary already.*--before"):
        load_models(RelationsConfig(teacher=latent))


def test_texts_come_from_the_command_line_or_a_file(tmp_path):
    assert texts_of(RelationsConfig()) == list(SAMPLE_TEXTS)
    assert texts_of(RelationsConfig(texts="one, two")) == ["one, two"]
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "first"}\n{"text": "second"}\n')
    assert texts_of(RelationsConfig(texts=str(path))) == ["first", "second"]
    path.write_text('{"text": "same"}\n' * (MOST_TEXTS + 1))
    assert len(texts_of(RelationsConfig(texts=str(path)))) == MOST_TEXTS
    path.write_text('{"query": "first"}\n')
    with pytest.raises(ValueError, match="no field `text`"):
        texts_of(RelationsConfig(texts=str(path)))
    with pytest.raises(ValueError, match="empty"):
        texts_of(RelationsConfig(texts=" "))
    with pytest.raises(FileNotFoundError):
        texts_of(RelationsConfig(texts=str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize(("field", "value"), [("heads", 0), ("temperature", 0.0), ("max_length", 1)])
def test_senseless_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        RelationsConfig(**{field: value})


def test_most_changed_pair_is_of_two_tokens_and_of_the_last_student():
    teacher = np.full((3, 3), 1 / 3, dtype=np.float32)
    before, after = teacher.copy(), teacher.copy()
    before[0] = [0.1, 0.1, 0.8]
    after[1] = [0.3, 0.1, 0.6]
    maps = {"teacher": teacher, "before": before, "after": after}
    kl = {name: (teacher * np.log(teacher / r)).sum(axis=1) for name, r in maps.items() if name != "teacher"}
    relations = Relations(
        ["a", "b", "c"],
        False,
        {name: dict.fromkeys(PHIS, r[None, None]) for name, r in maps.items()},
        {name: dict.fromkeys(PHIS, d[None, None]) for name, d in kl.items()},
    )
    assert most_changed_pair(relations, "V", 0, 0) == (1, 2)
