"""Two-bit packing against a loop over the documented layout."""

import pytest
import torch

from bitembed_core.ternary_packing import pack_ternary, packed_width, unpack_ternary


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (5, 7), (2, 640), (4, 0), (0, 8)])
def test_layout_and_round_trip(shape) -> None:
    codes = torch.randint(-1, 2, shape, dtype=torch.int8)
    packed = pack_ternary(codes)
    assert packed.shape == (shape[0], packed_width(shape[1]))
    for row, row_codes in zip(packed.tolist(), codes.tolist(), strict=True):
        for position, code in enumerate(row_codes):
            assert row[position // 4] // 4 ** (position % 4) % 4 == code + 1
    assert torch.equal(unpack_ternary(packed, shape[1]), codes)


def test_bad_codes() -> None:
    with pytest.raises(ValueError, match="only the codes"):
        pack_ternary(torch.tensor([[2]], dtype=torch.int8))
    with pytest.raises(ValueError, match="no ternary code"):
        unpack_ternary(torch.tensor([[255]], dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="cannot hold"):
        unpack_ternary(torch.zeros(1, 2, dtype=torch.uint8), 20)
