"""Model folders: what belongs into one, and what is never overwritten."""

import json
from pathlib import Path

from bitembed_core.checkpoints.model_card import CARD_FILE
from bitembed_core.checkpoints.sentence_files import MODULES
from bitembed_core.files import read_json

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")


def check_tokenizer_files(folder: Path) -> None:
    """ValueError when `folder` has no tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder} has no tokenizer: one of {', '.join(TOKENIZER_FILES)} belongs there")


def compact_json(path: Path) -> None:
    """Rewrite a JSON file without white space: half of a large tokenizer's file."""
    if path.is_file():
        path.write_text(
            json.dumps(read_json(path), ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
        )


def refuse_to_overwrite(target: Path) -> None:
    """ValueError when there is something at `target` that is no model."""
    if not target.exists():
        card = target.with_suffix(".md")
        if target.suffix == ".gguf" and card.exists():
            raise ValueError(f"{card}, where the model card belongs, exists already; it is not overwritten")
        return
    if target.is_file():
        with target.open("rb") as file:
            is_model = target.suffix == ".gguf" and file.read(4) == b"GGUF"
    else:
        rest = [path for path in target.iterdir() if path.name != CARD_FILE]
        is_model = (target / MODULES).is_file() or not rest or [path.suffix for path in rest] == [".gguf"]
    if not is_model:
        raise ValueError(f"{target} exists and is no model folder; it is not overwritten")
