import numpy as np
import pytest
import torch

from bitembed_core.storage import decode_codes, fake_quantize_output, output_codes

F = np.float32


def scalar_code(x, a, bits):
    """Eq 10 and 11 for one value, in float32 arithmetic; np.rint rounds half to even as torch.round does."""
    if bits == 1:
        return 0 if x < 0 else 1
    m = F(2**bits - 1)
    relative = F(x) / F(a) if a > 0 else F(0)
    return int(np.clip(np.rint((relative + F(1)) / F(2) * m), 0, m))


def scalar_value(z, a, bits):
    if bits == 1:
        return F(a) if z else -F(a)
    return (F(2) * F(z) / F(2**bits - 1) - F(1)) * F(a)


def vectors():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(20, 33, generator=generator)
    outlier = normal[:4].clone()
    outlier[:, 3] = 1e4
    return torch.cat(
        [
            normal,
            outlier,
            normal[:2] * 1e-30,
            normal[:2] * 1e30,
            torch.zeros(1, 33),
            -torch.zeros(1, 33),
            torch.ones(1, 33),
            -torch.ones(1, 33),
            torch.linspace(-1, 1, 33)[None],
        ]
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_and_values_equal_the_equations_bit_for_bit(bits):
    e = vectors()
    codes, scale = output_codes(e, bits)
    values = decode_codes(codes, scale, bits)
    assert codes.dtype == torch.uint8
    assert scale.dtype == values.dtype == torch.float32
    assert codes.shape == e.shape
    assert scale.shape == (len(e), 1)
    for row, row_codes, row_scale, row_values in zip(e, codes, scale, values, strict=True):
        a = max(abs(x) for x in row.tolist())
        assert row_scale.item() == a
        expected = [scalar_code(x, a, bits) for x in row.numpy()]
        assert row_codes.tolist() == expected
        assert row_values.numpy().tolist() == [scalar_value(z, a, bits) for z in expected]


def test_sign_of_zero_is_plus_one():
    values = fake_quantize_output(torch.tensor([0.0, -0.0, -0.5, 1e-20, -1e-20]), 1)
    assert values.tolist() == [0.5, 0.5, -0.5, 0.5, -0.5]


def test_ties_round_half_to_even():
    # Two bits: (e/a + 1)/2 * 3 is 1.5 at 0 and 0.5 at -2/3 (exactly so only where float32 says so).
    codes, _ = output_codes(torch.tensor([1.0, 0.0]), 2)
    assert codes.tolist() == [3, 2]
    # Four bits: 7.5 at 0 goes to 8. Eight bits: 127.5 at 0 goes to 128.
    assert output_codes(torch.tensor([1.0, 0.0]), 4)[0].tolist() == [15, 8]
    assert output_codes(torch.tensor([1.0, 0.0]), 8)[0].tolist() == [255, 128]
    # 0.5 goes to 0 and 2.5 to 2: e/a = -14/15 and -10/15 in four bits, where float32 hits the tie exactly.
    e = torch.tensor([1.0, -14 / 15, -10 / 15])
    position = (e + 1) / 2 * 15
    assert output_codes(e, 4)[0].tolist() == position.round().int().tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_zero_vector_stays_zero(bits):
    codes, scale = output_codes(torch.zeros(2, 5), bits)
    assert torch.equal(scale, torch.zeros(2, 1))
    assert torch.equal(decode_codes(codes, scale, bits), torch.zeros(2, 5))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_is_at_most_half_a_step(bits):
    e = torch.randn(50, 64)
    a = e.abs().amax(dim=-1, keepdim=True)
    error = (fake_quantize_output(e, bits) - e).abs()
    assert (error <= a / (2**bits - 1) * 1.0001).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gradient_is_exactly_the_identity(bits):
    e = vectors().requires_grad_()
    upstream = torch.randn(e.shape)
    fake_quantize_output(e, bits).backward(upstream)
    assert torch.equal(e.grad, upstream)


def test_sixteen_bits_is_the_identity():
    e = torch.randn(3, 4)
    assert fake_quantize_output(e, 16) is e


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_keep_theirs_and_any_leading_shape_works(dtype):
    e = torch.randn(2, 3, 8).to(dtype)
    values = fake_quantize_output(e, 4)
    assert values.dtype == dtype
    codes, scale = output_codes(e.float(), 4)
    assert torch.equal(values, decode_codes(codes, scale, 4).to(dtype))


def test_quantizing_twice_changes_no_code():
    e = torch.randn(10, 40)
    for bits in (1, 2, 4, 8):
        codes, scale = output_codes(e, bits)
        again, scale_again = output_codes(decode_codes(codes, scale, bits), bits)
        assert torch.equal(codes, again)
        assert torch.equal(scale, scale_again)


def test_nan_is_not_hidden():
    for bits in (1, 2, 4, 8):
        assert fake_quantize_output(torch.tensor([1.0, float("nan")]), bits).isnan().all()


@pytest.mark.parametrize("bits", [0, 3, 16, 32])
def test_wrong_bits_are_named(bits):
    with pytest.raises(ValueError, match=str(bits)):
        output_codes(torch.ones(2), bits)
    if bits != 16:
        with pytest.raises(ValueError, match=str(bits)):
            fake_quantize_output(torch.ones(2), bits)
