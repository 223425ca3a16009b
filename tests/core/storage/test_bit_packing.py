import numpy as np
import pytest

from bitembed_core.storage.bit_packing import pack_bits, unpack_bits


def random_codes(n, dim, bits):
    return np.random.default_rng(0).integers(0, 2**bits, (n, dim), dtype=np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 7, 8, 9, 17, 384])
def test_round_trip_and_width(bits, dim):
    codes = random_codes(6, dim, bits)
    packed = pack_bits(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (6, (dim * bits + 7) // 8)
    assert np.array_equal(unpack_bits(packed, bits, dim), codes)


@pytest.mark.parametrize("dim", [1, 7, 8, 13, 64])
def test_one_bit_equals_numpy(dim):
    codes = random_codes(5, dim, 1)
    assert np.array_equal(pack_bits(codes, 1), np.packbits(codes, axis=1))
    assert np.array_equal(unpack_bits(np.packbits(codes, axis=1), 1, dim), codes)


def test_first_code_is_in_the_highest_bits():
    assert pack_bits(np.array([[3, 0, 1, 2, 1]], dtype=np.uint8), 2).tolist() == [[0b11000110, 0b01000000]]
    assert pack_bits(np.array([[0xA, 0x3, 0x7]], dtype=np.uint8), 4).tolist() == [[0xA3, 0x70]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_no_rows(bits):
    packed = pack_bits(np.empty((0, 5), dtype=np.uint8), bits)
    assert len(packed) == 0
    assert unpack_bits(packed, bits, 5).shape == (0, 5)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="code 4 does not fit"):
        pack_bits(np.array([[1, 4]], dtype=np.uint8), 2)
    with pytest.raises(ValueError, match="uint8 matrix"):
        pack_bits(np.array([1, 0], dtype=np.uint8), 1)
    with pytest.raises(ValueError, match="uint8 matrix"):
        pack_bits(np.array([[1, 0]]), 1)
    with pytest.raises(ValueError, match="not 3"):
        pack_bits(np.array([[1, 0]], dtype=np.uint8), 3)
    with pytest.raises(ValueError, match="rows of 2 bytes"):
        unpack_bits(np.zeros((3, 1), dtype=np.uint8), 1, 9)
