import json
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from bitembed_core import files
from bitembed_core.storage import PRECISIONS, PackedEmbeddings, StorageFormat, fake_quantize_output

LOW_BIT = {"int8": 8, "int4": 4, "int2": 2, "binary": 1}


def vectors(n=7, dim=13, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_cosine(queries, documents):
    queries, documents = np.asarray(queries, np.float64), np.asarray(documents, np.float64)
    scores = np.zeros((len(queries), len(documents)))
    for i, q in enumerate(queries):
        for j, d in enumerate(documents):
            length = np.sqrt((q @ q) * (d @ d))
            scores[i, j] = q @ d / length if length > 0 else 0
    return scores


@pytest.mark.parametrize("dim", [1, 5, 8, 13, 64])
@pytest.mark.parametrize("precision", LOW_BIT)
def test_decoded_values_are_those_of_training_bit_for_bit(precision, dim):
    x = vectors(9, dim) * 3
    decoded = StorageFormat(precision, dim).encode(x).decode()
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, fake_quantize_output(torch.from_numpy(x), LOW_BIT[precision]).numpy())


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float16", np.float16)])
def test_float_formats_are_the_little_endian_bytes(precision, dtype):
    x = vectors()
    packed = StorageFormat(precision, 13).encode(x)
    assert packed.scales is None
    assert packed.codes.tobytes() == x.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    assert np.array_equal(packed.decode(), x.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("precision", "size"),
    [("float32", 52), ("float16", 26), ("int8", 13 + 4), ("int4", 7 + 4), ("int2", 4 + 4), ("binary", 2 + 4)],
)
def test_bytes_per_vector_counts_everything(precision, size):
    storage_format = StorageFormat(precision, 13)
    packed = storage_format.encode(vectors())
    assert storage_format.bytes_per_vector == size
    assert packed.nbytes == 7 * size
    assert storage_format.bits == {"float32": 32, "float16": 16, **LOW_BIT}[precision]


def test_binary_codes_are_ubinary():
    x = vectors(5, 20)
    assert np.array_equal(StorageFormat("binary", 20).encode(x).codes, np.packbits(x >= 0, axis=1))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_are_cosines_of_decoded_vectors(precision):
    """Of a fitted format, inner products with what it decodes to; of a graded one, of the components that it keeps."""
    scheme, kept = StorageFormat(precision, 1).scheme, StorageFormat(precision, 13).kept
    documents = vectors(11) * np.linspace(0.1, 50, 11, dtype=np.float32)[:, None]
    documents[4] = 0
    queries = vectors(3, seed=1) * 7
    packed = StorageFormat(precision, 13).encode(documents)
    scores = packed.scores(queries)
    assert scores.dtype == np.float32
    lengths = np.linalg.norm(packed.decode(), axis=1) if scheme is not None and scheme.fitted else 1
    expected = slow_cosine(queries[:, :kept], packed.decode()[:, :kept]) * lengths
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    assert (scores[:, 4] == 0).all()
    for other in ("binary", "int4", precision):
        packed_queries = StorageFormat(other, 13).encode(queries)
        expected = slow_cosine(packed_queries.decode()[:, :kept], packed.decode()[:, :kept]) * lengths
        np.testing.assert_allclose(packed.scores(packed_queries), expected, atol=2e-6)


def test_scores_accept_torch_half_precision_zero_and_huge_queries():
    packed = StorageFormat("int8", 13).encode(vectors())
    queries = vectors(2, seed=1)
    reference = packed.scores(queries)
    np.testing.assert_allclose(packed.scores(torch.from_numpy(queries)), reference, atol=1e-6)
    np.testing.assert_allclose(packed.scores(torch.from_numpy(queries).bfloat16()), reference, atol=1e-2)
    np.testing.assert_allclose(packed.scores(queries.astype(np.float16)), reference, atol=2e-3)
    np.testing.assert_allclose(packed.scores(queries.astype(np.float64) * 1e200), reference, atol=1e-6)
    np.testing.assert_allclose(packed.scores(queries * np.float32(1e-30)), reference, atol=1e-6)
    assert (packed.scores(np.zeros((1, 13))) == 0).all()
    assert packed.scores(np.zeros((0, 13))).shape == (0, 7)
    assert packed[:0].scores(queries).shape == (2, 0)


def test_scoring_many_rows_expands_only_a_chunk_at_a_time():
    n, dim = 40_000, 256
    codes = np.random.default_rng(0).integers(0, 256, (n, dim // 8), dtype=np.uint8)
    packed = PackedEmbeddings(StorageFormat("binary", dim), codes, np.ones(n, dtype=np.float32))
    query = vectors(2, dim)
    tracemalloc.start()
    scores = packed.scores(query)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * dim * 4 / 4
    for row in (0, 1023, 1024, n - 1):
        np.testing.assert_allclose(scores[:, row], packed[row].scores(query)[:, 0], atol=1e-6)


def test_chunks_do_not_change_codes():
    x = np.random.default_rng(0).standard_normal((3000, 700)).astype(np.float32)
    packed = StorageFormat("int4", 700).encode(x)
    for row in (0, 373, 374, 2999):
        assert np.array_equal(packed[row].codes, StorageFormat("int4", 700).encode(x[row : row + 1]).codes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_can_be_chosen(precision):
    packed = StorageFormat(precision, 13).encode(vectors())
    whole = packed.decode()
    assert len(packed) == 7
    assert np.array_equal(packed[2].decode(), whole[2:3])
    assert np.array_equal(packed[-1].decode(), whole[-1:])
    assert np.array_equal(packed[np.int64(3)].decode(), whole[3:4])
    assert np.array_equal(packed[1:6:2].decode(), whole[1:6:2])
    assert np.array_equal(packed[::-1].decode(), whole[::-1])
    assert np.array_equal(packed[np.array([4, 0, 4])].decode(), whole[[4, 0, 4]])
    assert np.array_equal(packed[[1, 2]].decode(), whole[[1, 2]])
    assert np.array_equal(packed[whole[:, 0] > 0].decode(), whole[whole[:, 0] > 0])
    assert len(packed[[]]) == 0
    assert len(list(packed)) == 7
    with pytest.raises(IndexError):
        packed[7]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_save_load_and_concatenate(precision, tmp_path):
    packed = StorageFormat(precision, 13).encode(vectors())
    path = tmp_path / "folder" / "vectors.safetensors"
    packed[::-1].save(path)
    loaded = PackedEmbeddings.load(path)
    assert loaded.format == packed.format
    assert np.array_equal(loaded.decode(), packed.decode()[::-1])
    joined = PackedEmbeddings.concatenate([packed[:3], packed[3:3], packed[3:]])
    assert np.array_equal(joined.decode(), packed.decode())
    empty = packed[:0]
    empty.save(path)
    assert len(PackedEmbeddings.load(path)) == 0


def test_only_one_format_can_be_concatenated():
    int8, int4 = (StorageFormat(name, 13).encode(vectors()) for name in ("int8", "int4"))
    with pytest.raises(ValueError, match=r"int4 \(13\), int8 \(13\)"):
        PackedEmbeddings.concatenate([int8, int4])
    with pytest.raises(ValueError, match="nothing"):
        PackedEmbeddings.concatenate([])


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "vectors.safetensors"
    with pytest.raises(FileNotFoundError, match="vectors"):
        PackedEmbeddings.load(path)
    StorageFormat("int8", 13).encode(vectors()).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no safetensors at all", whole[: len(whole) // 2], whole[:-5]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            PackedEmbeddings.load(path)
    save_file({"weight": np.zeros(3, dtype=np.float32)}, path)
    with pytest.raises(ValueError, match="not one of packed embeddings"):
        PackedEmbeddings.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "99"}, "version 99"),
        ({"format": "int3"}, "int8"),
        ({"format": "int4"}, "uint8 codes"),
        ({"dim": "14"}, "uint8 codes"),
        ({"dim": "many"}, "many"),
    ],
)
def test_contradictory_description_is_refused(tmp_path, change, message):
    path = tmp_path / "vectors.safetensors"
    StorageFormat("int8", 13).encode(vectors()).save(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= change
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])
    with pytest.raises(ValueError, match=message):
        PackedEmbeddings.load(path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "vectors.safetensors"
    packed = StorageFormat("int8", 13).encode(vectors())
    packed.save(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        packed[:1].save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["vectors.safetensors"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_vectors_and_no_vectors(precision):
    storage_format = StorageFormat(precision, 13)
    assert np.array_equal(storage_format.encode(np.zeros((2, 13))).decode(), np.zeros((2, 13)))
    assert storage_format.encode(np.zeros((0, 13))).decode().shape == (0, 13)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_torch_and_other_layouts_give_the_same_bytes(precision):
    x = vectors()
    storage_format = StorageFormat(precision, 13)
    codes = storage_format.encode(x).codes
    for same in (
        torch.from_numpy(x).requires_grad_(),
        x.astype(np.float64),
        np.asfortranarray(x),
        x.astype(">f4"),
        np.repeat(x, 2, axis=1)[:, ::2],
    ):
        assert np.array_equal(storage_format.encode(same).codes, codes)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_cannot_be_stored_are_named_by_row(precision, bad):
    x = vectors().astype(np.float64)
    x[3, 5] = bad
    with pytest.raises(ValueError, match="embedding 3"):
        StorageFormat(precision, 13).encode(x)


def test_float16_overflow_is_refused():
    with pytest.raises(ValueError, match="float16"):
        StorageFormat("float16", 1).encode(np.array([[1e5]]))


def test_wrong_names_shapes_and_types():
    with pytest.raises(ValueError, match="float32, float16, int8, int4, int2, binary"):
        StorageFormat("int3", 13)
    with pytest.raises(ValueError, match="dimension"):
        StorageFormat("int8", 0)
    storage_format = StorageFormat("int8", 13)
    for wrong in (np.zeros((2, 12)), np.zeros(13)):
        with pytest.raises(ValueError, match=r"\(n, 13\)"):
            storage_format.encode(wrong)
    with pytest.raises(ValueError, match="floating point"):
        storage_format.encode(np.zeros((2, 13), dtype=int))
    packed = storage_format.encode(vectors())
    with pytest.raises(ValueError, match="queries"):
        packed.scores(np.zeros(13))
    with pytest.raises(ValueError, match="queries"):
        packed.scores(StorageFormat("int8", 12).encode(np.zeros((2, 12))))
    with pytest.raises(ValueError, match="NaN"):
        packed.scores(np.full((1, 13), np.nan))


@pytest.mark.parametrize(
    ("codes", "scales"),
    [
        (np.zeros((2, 12), dtype=np.uint8), np.ones(2, dtype=np.float32)),
        (np.zeros((2, 13), dtype=np.int8), np.ones(2, dtype=np.float32)),
        (np.zeros((2, 13), dtype=np.uint8), None),
        (np.zeros((2, 13), dtype=np.uint8), np.ones(3, dtype=np.float32)),
        (np.zeros((2, 13), dtype=np.uint8), np.ones(2)),
        (np.zeros((2, 13), dtype=np.uint8), np.array([1, np.nan], dtype=np.float32)),
        (np.zeros((2, 13), dtype=np.uint8), np.array([1, -1], dtype=np.float32)),
    ],
)
def test_arrays_that_are_not_the_formats_are_refused(codes, scales):
    with pytest.raises(ValueError, match=r"codes|scale"):
        PackedEmbeddings(StorageFormat("int8", 13), codes, scales)
