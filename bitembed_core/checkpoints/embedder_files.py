"""A whole embedder in files: model, tokenizer, settings and card, written together or not at all."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from bitembed_core.backbones import load_backbone, longest_text
from bitembed_core.checkpoints import gguf
from bitembed_core.checkpoints.folders import compact_json, refuse_to_overwrite
from bitembed_core.checkpoints.gguf.vocabulary import read_tokenizer
from bitembed_core.checkpoints.layouts import LAYOUTS, Layout, save_model
from bitembed_core.checkpoints.model_card import CARD_FILE, model_card, try_out
from bitembed_core.checkpoints.sentence_files import SentenceSettings, write_settings
from bitembed_core.embedding_table import TablePrecision, quantized_tables
from bitembed_core.files import atomic_path

if TYPE_CHECKING:
    from bitembed_core.embedder import BitEmbedder


def save(
    embedder: "BitEmbedder",
    folder: Path,
    layout: Layout,
    token_table: TablePrecision | None,
    gguf_type: gguf.GGUFType | None,
) -> None:
    """What `BitEmbedder.save_pretrained` says."""
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
    if token_table is not None and layout != "packed":
        raise ValueError(f"token_table={token_table!r} is for layout 'packed', not for {layout!r}")
    if gguf_type is not None and layout != "gguf":
        raise ValueError(f"gguf_type={gguf_type!r} is for layout 'gguf', not for {layout!r}")
    refuse_to_overwrite(folder)
    if layout == "gguf":
        _save_gguf(embedder, folder, gguf_type)
        return
    form = layout if embedder.is_ternary else None
    if form is None and token_table is not None:
        raise ValueError(
            "token_table is for ternary models, and this one is in floating point; convert it first"
        )
    if form == "packed" and token_table is None and not quantized_tables(embedder.model):
        token_table = cast(TablePrecision | None, embedder.provenance.token_table)
    with atomic_path(folder) as fresh:
        fresh.mkdir()
        save_model(embedder.model, fresh, form, token_table)
        embedder.tokenizer.save_pretrained(fresh)
        if form == "packed":
            compact_json(fresh / "tokenizer.json")
        write_settings(fresh, embedder.settings, embedder.dimension)
        _write_card(embedder, fresh, form, folder.name, fresh / CARD_FILE, fresh.glob("*.safetensors"))


def read_gguf(path: Path) -> tuple[PreTrainedModel, Tokenizer | Callable[[], Tokenizer], SentenceSettings]:
    """Model, tokenizer (or what loads it) and settings of a `.gguf` file."""
    file = gguf.GGUFFile(path)
    if gguf.is_read_here(file):
        model = gguf.read_model(file)
        settings = gguf.read_settings(file, longest_text(model, None))
        return model, partial(read_tokenizer, path, file.metadata), settings
    model, tokenizer = load_backbone(path)
    return model, tokenizer, gguf.read_settings(file, longest_text(model, tokenizer.model_max_length))


def _save_gguf(embedder: "BitEmbedder", target: Path, kind: gguf.GGUFType | None) -> None:
    name = target.stem if target.suffix == ".gguf" else target.name
    parts = (embedder.model, embedder.tokenizer, embedder.settings, name, kind)
    if target.suffix != ".gguf":
        with atomic_path(target) as fresh:
            fresh.mkdir()
            file = fresh / f"{name}-{kind or ('i2_s' if embedder.is_ternary else 'f16')}.gguf"
            gguf.write_model(file, *parts)
            _write_card(embedder, file, "gguf", name, fresh / CARD_FILE, [file])
        return
    with atomic_path(target) as fresh, atomic_path(target.with_suffix(".md")) as card:
        file = fresh.with_suffix(".gguf")
        gguf.write_model(file, *parts)
        _write_card(embedder, file, "gguf", target.name, card, [file])
        file.rename(fresh)


def _write_card(
    embedder: "BitEmbedder", written: Path, form: str | None, name: str, card: Path, files: Iterable[Path]
) -> None:
    trial = try_out(embedder, written, exact=form not in ("packed", "gguf"))
    sizes = {name if file == written else file.name: file.stat().st_size for file in files}
    card.write_text(model_card(embedder, form, name, sizes, trial), encoding="utf-8")
