"""The real Gemma-3-270M through every layout.

Ternary without training, the model magnifies the slightest change (a relative noise of 1e-6 in the token table lowers the
cosine to 0.97), so what rounds the table is judged on the floating-point model.
"""

from pathlib import Path

import pytest

from bitembed_core import BitEmbedder
from bitembed_core.embedding_table import quantize_tables
from workbench.catalog.models import load_embedder
from workbench.catalog.packages import PackageUnavailable

TEXTS = [
    "Which program converts audio files from one format to another?",
    "A ternary weight is minus one, zero or one.",
    "O\u00f9 est la biblioth\u00e8que ? 3.14 <b>x</b>\n\n  two spaces",
]


@pytest.fixture(scope="module")
def gemma() -> BitEmbedder:
    try:
        return load_embedder("gemma3-270m", device="cpu")
    except PackageUnavailable as reason:
        pytest.skip(f"nothing in the cache and not online: {reason}")


def test_an_int8_table_keeps_the_floating_point_model(gemma) -> None:
    rounded = load_embedder("gemma3-270m", device="cpu")
    quantize_tables(rounded.model, "int8")
    assert (rounded.encode(TEXTS) * gemma.encode(TEXTS)).sum(axis=1).min() >= 0.999


def test_every_trip_of_the_ternary_model(gemma, tmp_path: Path) -> None:
    gemma.convert(calibration_texts=TEXTS)
    before = gemma.encode(TEXTS)
    for layout, options in (("packed", {}), ("gguf", {}), ("packed", {"token_table": "int4"})):
        folder = tmp_path / (layout + options.get("token_table", ""))
        gemma.save_pretrained(folder, layout, **options)
        weights = next(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))
        if options:
            assert weights.stat().st_size < 115e6
            continue
        again = BitEmbedder.from_pretrained(folder, device="cpu")
        assert again.tokenizer(TEXTS)["input_ids"] == gemma.tokenizer(TEXTS)["input_ids"]
        assert (again.encode(TEXTS) == before).all()
        weights.unlink()
    gemma.save_pretrained(tmp_path / "release")
    again = BitEmbedder.from_pretrained(tmp_path / "release", device="cpu")
    assert (again.encode(TEXTS) == before).all()
