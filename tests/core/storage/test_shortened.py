"""Formats that keep the first components only: their bytes, values and scores are those of the cut vectors."""

import numpy as np
import pytest
import torch

from bitembed_core import PackedEmbeddings, StorageFormat
from bitembed_core.losses import EmbeddingBatch, InfoNCE, MultiPrecisionLoss
from bitembed_core.ops.packed_scores import PackedScores
from bitembed_core.storage import PRECISIONS, fake_quantize_output
from bitembed_core.storage.precisions import by_width

CODED = [name for name in PRECISIONS if not name.startswith("float")]


def vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("dim", "kept"), [(7, 3), (40, 40), (70, 1), (384, 128)])
def test_the_same_as_storing_cut_vectors(precision, dim, kept, tmp_path) -> None:
    x, queries = vectors(9, dim), vectors(4, dim, seed=1)
    form, plain = StorageFormat(f"{precision}-{kept}d", dim), StorageFormat(precision, kept)
    packed, expected = form.encode(x), plain.encode(np.ascontiguousarray(x[:, :kept]))
    assert form.bytes_per_vector == plain.bytes_per_vector
    np.testing.assert_array_equal(packed.codes, expected.codes)
    np.testing.assert_array_equal(packed.decode()[:, :kept], expected.decode())
    assert not packed.decode()[:, kept:].any()
    np.testing.assert_array_equal(packed.scores(queries), expected.scores(queries[:, :kept]))
    np.testing.assert_allclose(packed.scores(packed), expected.scores(expected), atol=1e-6)
    packed.save(tmp_path / "p.safetensors")
    assert PackedEmbeddings.load(tmp_path / "p.safetensors").format == form


@pytest.mark.parametrize("precision", CODED)
def test_search(precision) -> None:
    x, queries = vectors(200, 48), vectors(5, 48, seed=1)
    packed = StorageFormat(f"{precision}-20d", 48).encode(x)
    best = PackedScores(packed, "cpu").best(queries, 3)
    scores = packed.scores(queries)
    np.testing.assert_allclose(best.scores, -np.sort(-scores, axis=1)[:, :3], atol=1e-5)
    found = PackedScores(packed, "cpu").scores(queries).numpy()
    np.testing.assert_allclose(found, scores, atol=1e-5)


def test_names() -> None:
    with pytest.raises(ValueError, match="keeps more than the 32 dimensions"):
        StorageFormat("int8-33d", 32)
    for wrong in ("int8-0d", "int8-d", "int3-4d", "int8-4", "-4d", "int8-4d-2d"):
        with pytest.raises(ValueError, match="unknown precision"):
            StorageFormat(wrong, 32)
    names = ["binary", "int8-8d", "float16", "int8", "int8-16d"]
    assert sorted(names, key=by_width) == ["float16", "int8", "int8-16d", "int8-8d", "binary"]


def test_training() -> None:
    draw = [torch.from_numpy(vectors(6, 16, seed)).requires_grad_() for seed in range(2)]
    batch = EmbeddingBatch(*draw, None)
    terms = MultiPrecisionLoss(("int2-fitted-8d", "float16-4d"), float_queries_weight=0.5)(batch)
    low = [torch.from_numpy(StorageFormat("int2-fitted", 8).encode(e[:, :8].detach()).decode()) for e in draw]
    expected = InfoNCE(0.02)(low[0], low[1], None)
    torch.testing.assert_close(terms.contrastive["int2-fitted-8d"], expected, rtol=1e-4, atol=1e-5)
    expected = InfoNCE(0.02)(draw[0][:, :8], low[1], None)
    torch.testing.assert_close(terms.asymmetric["int2-fitted-8d"], expected, rtol=1e-4, atol=1e-5)
    expected = InfoNCE(0.02)(draw[0][:, :4], draw[1][:, :4], None)
    torch.testing.assert_close(terms.contrastive["float16-4d"], expected)
    for gradient in torch.autograd.grad(terms.total, draw):
        assert gradient[:, :8].abs().sum() > 0
        assert not gradient[:, 8:].any()
    assert torch.equal(fake_quantize_output(draw[0], "int8"), fake_quantize_output(draw[0], 8))
