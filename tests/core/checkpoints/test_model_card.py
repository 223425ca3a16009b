"""Model cards: history kept through every save, results shown, the snippet really run."""

import pytest

from bitembed_core import BitEmbedder
from bitembed_core.checkpoints import model_card
from bitembed_core.checkpoints.provenance import Provenance

RESULTS = {
    "tasks": {"sts": {"teacher": 0.8, "float16": 0.7512}},
    "mean": {"teacher": 0.8, "float16": 0.7512},
    "kernel": "int8",
    "commit": "abc1234",
    "environment": {"cpu": "Some CPU"},
}


def test_the_card_says_where_a_model_comes_from_and_what_it_does(tiny_embedder, sentences, tmp_path) -> None:
    tiny_embedder.provenance.base_model = "somebody/tiny-bert"
    tiny_embedder.provenance.licence = "Apache-2.0"
    tiny_embedder.settings.prompts = {"query": "ask: "}
    tiny_embedder.convert("all", sentences)
    tiny_embedder.provenance.add("pretrain", data="web pairs (300)", steps=7, teacher="the teacher")
    tiny_embedder.provenance.results = RESULTS
    tiny_embedder.save_pretrained(tmp_path / "m", "packed", token_table="int4")
    card = (tmp_path / "m" / "README.md").read_text()
    for expected in (
        "license: apache-2.0",
        "base_model: somebody/tiny-bert",
        "| 1 | conversion | sites all, norms_calibrated_on 8 texts |",
        "| 2 | pretrain | data web pairs (300), steps 7, teacher the teacher |",
        "| pooling | mean |",
        "| prompt `query` | `'ask: '` |",
        "| `model.safetensors` |",
        "| int8 | 36 |",
        "kernel int8, Some CPU, commit abc1234",
        "| sts | 80.00 | 75.12 |",
        "embedder = BitEmbedder.from_pretrained('m')",
    ):
        assert expected in card, expected
    again = BitEmbedder.from_pretrained(tmp_path / "m", device="cpu")
    assert again.provenance == tiny_embedder.provenance
    scores = again.encode_query(model_card.QUERIES) @ again.encode_document(model_card.DOCUMENTS).T
    assert str(scores.round(3)) in card


def test_every_layout_has_a_card(make_embedder, tmp_path) -> None:
    embedder = make_embedder("qwen3")
    embedder.convert()
    for layout in ("release", "latent", "packed", "gguf"):
        embedder.save_pretrained(tmp_path / layout, layout)
        assert "This was run when the model was saved" in (tmp_path / layout / "README.md").read_text()


def test_a_model_that_comes_back_as_another_is_not_saved(tiny_embedder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "bitembed_core.checkpoints.embedder_files.save_model", lambda _, *rest: original(other.model, *rest)
    )
    import copy

    from bitembed_core.checkpoints.layouts import save_model as original

    other = copy.deepcopy(tiny_embedder)
    for parameter in other.model.parameters():
        parameter.data.normal_()
    with pytest.raises(ValueError, match="the written files give other embeddings"):
        tiny_embedder.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_stage_makes_old_results_void() -> None:
    provenance = Provenance("base", "MIT", [], RESULTS)
    provenance.add("distill", steps=3)
    assert provenance.results is None
    assert Provenance.from_json(provenance.to_json()) == provenance
    with pytest.raises(ValueError, match="does not describe"):
        Provenance.from_json([1])
