"""ggml's ternary types against decoders written weight by weight from the published layouts, and against `gguf`'s own.

The published I2_S code was also run on our bytes, and the published converter on our release folder: see
kernels/benchmarks/gguf_peers.py and its results.
"""

import gguf
import numpy as np
import pytest
import torch

from bitembed_core.checkpoints.gguf.ternary_types import TERNARY_TYPES, encode_i2_s

SHAPES = [(1, 256), (3, 512), (8, 768)]


def random_codes(shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, shape, generator=generator, dtype=torch.int8)


def i2_s_weight_by_weight(data: bytes, count: int) -> list[float]:
    """The published layout: 128 weights in 32 bytes, byte p holds p, p+32, p+64, p+96 from the highest bits."""
    scale = np.frombuffer(data[count // 4 : count // 4 + 4], dtype="<f4")[0]
    values = []
    for index in range(count):
        block, within = divmod(index, 128)
        group, byte = divmod(within, 32)
        values.append(((data[32 * block + byte] >> (6 - 2 * group)) % 4 - 1) * scale)
    return values


@pytest.mark.parametrize("shape", [*SHAPES, (2, 64), (5, 128)])
def test_i2_s_weight_by_weight(shape) -> None:
    codes, scale = random_codes(shape), torch.tensor(0.0371)
    data = encode_i2_s(codes, scale)
    assert len(data) == codes.numel() // 4 + 32
    assert not data[-28:].any()
    values = i2_s_weight_by_weight(data.tobytes(), codes.numel())
    np.testing.assert_array_equal(
        np.array(values, dtype=np.float32), (codes.float() * scale).numpy().reshape(-1)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["tq2_0", "tq1_0"])
def test_llama_cpp_types_as_the_gguf_package_reads_and_writes_them(shape, name) -> None:
    codes, scale = random_codes(shape), torch.tensor(0.03125)
    kind = gguf.GGMLQuantizationType[name.upper()]
    ours = TERNARY_TYPES[name].encode(codes, scale)
    values = (codes.float() * scale).numpy()
    np.testing.assert_array_equal(
        gguf.quants.dequantize(ours.reshape(shape[0], -1), kind).reshape(shape), values
    )
    np.testing.assert_array_equal(gguf.quants.quantize(values, kind).reshape(-1), ours)


@pytest.mark.parametrize("name", TERNARY_TYPES)
@pytest.mark.parametrize("fill", [None, -1, 0, 1])
def test_round_trip(name, fill) -> None:
    codes = random_codes((4, 512)) if fill is None else torch.full((4, 512), fill, dtype=torch.int8)
    kind = TERNARY_TYPES[name]
    again, scale = kind.decode(kind.encode(codes, torch.tensor(0.5)), (4, 512))
    assert torch.equal(again, codes)
    if fill != 0:
        assert scale == 0.5


@pytest.mark.parametrize("name", ["i2_s", "tq2_0"])
def test_a_field_that_is_no_code_is_refused(name) -> None:
    kind = TERNARY_TYPES[name]
    data = kind.encode(random_codes((2, 256)), torch.tensor(0.5))
    data[11] |= 3
    with pytest.raises(ValueError, match="no ternary code"):
        kind.decode(data, (2, 256))


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_scale_that_is_no_positive_number_is_refused(scale) -> None:
    data = encode_i2_s(random_codes((2, 128)), torch.tensor(0.5))
    data[64:68] = np.array([scale], dtype="<f4").view(np.uint8)
    with pytest.raises(ValueError, match="not a positive number"):
        TERNARY_TYPES["i2_s"].decode(data, (2, 128))


def test_blocks_with_different_scales_are_not_ternary_with_one_scale() -> None:
    kind = TERNARY_TYPES["tq2_0"]
    one = kind.encode(random_codes((1, 256)), torch.tensor(0.5))
    other = kind.encode(random_codes((1, 256), seed=1), torch.tensor(0.25))
    with pytest.raises(ValueError, match="different scales"):
        kind.decode(np.concatenate([one, other]), (2, 256))


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="by the 128"):
        encode_i2_s(random_codes((3, 32)), torch.tensor(1.0))
    for name in ("tq2_0", "tq1_0"):
        with pytest.raises(ValueError, match="by the 256"):
            TERNARY_TYPES[name].encode(random_codes((2, 384)), torch.tensor(1.0))
