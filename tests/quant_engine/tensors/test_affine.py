from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from quant_engine.errors import DataError, SchemeError
from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import QParams, choose_qparams, dequantize, fake_quantize, quantize
from tests.quant_engine.strategies import schemes, tensors

SYMMETRIC = TensorScheme()
ASYMMETRIC = TensorScheme(symmetric=False)
TINY = torch.finfo(torch.float32).tiny
MAX = torch.finfo(torch.float32).max
# x / scale and code · scale are rounded to float32: a relative 2^-24 of at most 255 steps.
HALF_STEP = 0.5 + 255 * 2.0**-22


def grid_of(x: torch.Tensor, scheme: TensorScheme) -> QParams:
    return choose_qparams(x.min(), x.max(), scheme)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


# --- golden values --------------------------------------------------------------------------------


def test_symmetric_grid_by_hand():
    grid = choose_qparams(scalar(-2.54), scalar(1.0), SYMMETRIC)
    assert grid.scale == torch.tensor(0.02)
    assert (int(grid.zero_point), grid.qmin, grid.qmax) == (0, -127, 127)
    x = torch.tensor([-2.54, -0.011, -0.009, 0.0, 0.029, 1.0, 99.0])
    codes = quantize(x, grid)
    assert codes.tolist() == [-127, -1, 0, 0, 1, 50, 127]
    expected = torch.tensor([-2.54, -0.02, 0.0, 0.0, 0.02, 1.0, 2.54])
    torch.testing.assert_close(dequantize(codes, grid), expected)


def test_asymmetric_grid_by_hand():
    grid = choose_qparams(scalar(-1.0), scalar(4.1), ASYMMETRIC)
    # 5.1 / 255 = 0.02; -128 + 1 / 0.02 = -78.
    assert grid.scale == torch.tensor(0.02)
    assert (int(grid.zero_point), grid.qmin, grid.qmax) == (-78, -128, 127)
    codes = quantize(torch.tensor([-1.0, 0.0, 0.025, 4.1, -3.0, 9.0]), grid)
    assert codes.tolist() == [-128, -78, -77, 127, -128, 127]
    expected = torch.tensor([-1.0, 0.0, 0.02, 4.1])
    torch.testing.assert_close(dequantize(codes[:4], grid), expected)


def test_two_bits_by_hand():
    grid = choose_qparams(scalar(0.0), scalar(3.0), TensorScheme(bits=2, symmetric=False))
    assert (grid.scale.item(), int(grid.zero_point)) == (1.0, -2)
    assert quantize(torch.tensor([0.0, 1.0, 2.0, 3.0]), grid).tolist() == [-2, -1, 0, 1]


@pytest.mark.parametrize("zero_point", [0, 1, -3])
def test_ties_go_to_the_even_multiple_of_the_scale(zero_point):
    grid = QParams(torch.tensor(1.0), torch.tensor(zero_point), -128, 127)
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert fake_quantize(x, grid).tolist() == [0.0, 2.0, 2.0, 0.0, -2.0]


def test_a_range_away_from_zero_is_widened_to_hold_it():
    grid = choose_qparams(scalar(10.0), scalar(11.0), ASYMMETRIC)
    x = torch.linspace(10.0, 11.0, 50)
    assert grid.lower() == 0.0
    assert (x - fake_quantize(x, grid)).abs().max() <= 11.0 / 255 / 2 + 1e-6
    grid = choose_qparams(scalar(-11.0), scalar(-10.0), ASYMMETRIC)
    assert int(grid.zero_point) == 127
    assert (-x - fake_quantize(-x, grid)).abs().max() <= 11.0 / 255 / 2 + 1e-6


def test_each_channel_has_its_own_grid():
    lo, hi = torch.tensor([-1.27, 0.0, 0.0]), torch.tensor([0.5, 127.0, 0.0])
    grid = choose_qparams(lo, hi, SYMMETRIC, axis=1)
    torch.testing.assert_close(grid.scale, torch.tensor([0.01, 1.0, 1.0]))
    x = torch.tensor([[0.5, 0.6, 0.0], [-0.014, 126.4, 0.0]])
    assert quantize(x, grid).tolist() == [[50, 1, 0], [-1, 126, 0]]


def test_lower_and_upper_are_the_ends_of_the_grid():
    grid = choose_qparams(scalar(-1.0), scalar(4.1), ASYMMETRIC)
    torch.testing.assert_close(grid.lower(), torch.tensor(-1.0))
    torch.testing.assert_close(grid.upper(), torch.tensor(4.1))


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("constant", [5.0, -5.0, 1e-30, -1e30, 3e38, 0.1, 1e-35])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_constant_comes_back(constant, scheme, bits):
    scheme = TensorScheme(bits=bits, symmetric=scheme.symmetric)
    x = torch.full((3, 4), constant)
    torch.testing.assert_close(fake_quantize(x, grid_of(x, scheme)), x, rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("constant", [1e-37, -1e-40, 1.4e-45])
def test_a_constant_too_small_for_its_own_scale_is_off_by_less_than_float32_resolves(
    constant, scheme
):
    x = torch.full((3,), constant)
    grid = grid_of(x, scheme)
    assert grid.scale == TINY
    assert (fake_quantize(x, grid) - x).abs().max() <= TINY / 2


@pytest.mark.parametrize("scheme", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_zeros_come_back_as_zeros(scheme):
    x = torch.tensor([0.0, -0.0])
    grid = grid_of(x, scheme)
    assert grid.scale == 1.0
    assert fake_quantize(x, grid).tolist() == [0.0, 0.0]
    assert not fake_quantize(x, grid).signbit().any()


# --- properties -----------------------------------------------------------------------------------


@given(tensors(), schemes())
def test_inside_the_range_the_error_is_at_most_half_a_step(x, scheme):
    grid = grid_of(x, scheme)
    error = (x.double() - fake_quantize(x, grid).double()).abs()
    assert error.max() <= HALF_STEP * grid.scale.double()


@given(tensors(limit=MAX), schemes())
def test_no_range_gives_an_unusable_grid(x, scheme):
    grid = grid_of(x, scheme)
    assert TINY <= grid.scale <= MAX
    assert grid.qmin <= int(grid.zero_point) <= grid.qmax
    assert torch.isfinite(grid.lower())
    assert torch.isfinite(grid.upper())
    assert torch.isfinite(fake_quantize(x, grid)).all()


@given(tensors(limit=MAX), schemes())
def test_zero_stays_zero(x, scheme):
    grid = grid_of(x, scheme)
    assert quantize(torch.tensor(0.0), grid) == grid.zero_point
    assert dequantize(quantize(torch.tensor(0.0), grid), grid) == 0.0


@given(tensors(limit=MAX), tensors(limit=MAX), schemes())
def test_quantizing_twice_changes_nothing(x, seen, scheme):
    grid = grid_of(seen, scheme)
    once = fake_quantize(x, grid)
    assert torch.equal(fake_quantize(once, grid), once)
    assert torch.equal(quantize(once, grid), quantize(x, grid))


@given(tensors(limit=MAX), tensors(limit=MAX), schemes())
def test_codes_stay_on_the_grid_and_keep_the_order(x, seen, scheme):
    grid = grid_of(seen, scheme)
    codes = quantize(x.reshape(-1).sort().values, grid)
    assert codes.dtype == torch.int8
    assert grid.qmin <= codes.min()
    assert codes.max() <= grid.qmax
    assert (codes.int().diff() >= 0).all()


def bits_of(x: torch.Tensor) -> list[int]:
    return x.contiguous().view(torch.int32).reshape(-1).tolist()


@given(tensors(limit=MAX), tensors(limit=MAX), schemes())
def test_fake_quantize_is_bit_equal_to_quantize_and_dequantize(x, seen, scheme):
    grid = grid_of(seen, scheme)
    assert bits_of(fake_quantize(x, grid)) == bits_of(dequantize(quantize(x, grid), grid))


@given(tensors((3, 4, 2), limit=MAX), schemes("per_channel"), st.integers(-3, 2))
def test_a_channel_is_quantized_as_if_it_were_alone(x, scheme, axis):
    rows = x.movedim(axis, 0).flatten(1)
    grid = choose_qparams(rows.amin(1), rows.amax(1), scheme, axis)
    whole = fake_quantize(x, grid)
    assert bits_of(whole) == bits_of(dequantize(quantize(x, grid), grid))
    for channel in range(x.shape[axis]):
        part = x.select(axis, channel)
        alone = fake_quantize(part, grid_of(part, scheme))
        assert torch.equal(whole.select(axis, channel), alone)


@given(tensors(), schemes())
def test_more_range_never_means_a_finer_scale(x, scheme):
    grid = grid_of(x, scheme)
    wider = choose_qparams(2 * x.min().double(), 2 * x.max().double(), scheme)
    assert wider.scale >= grid.scale or (x == 0).all()


# --- oracle: torch's own fake quantization --------------------------------------------------------


def assert_equal_but_for_ties(x, grid, ours, theirs, scale):
    """Torch multiplies by 1 / scale, so values on the edge between two codes may go either way."""
    steps = x.double() / scale.double()
    distance = ((steps - steps.floor()) - 0.5).abs()
    is_tie = distance <= 4 * 2.0**-24 * steps.abs().clamp(min=1.0)
    difference = ((ours - theirs) / scale).abs()
    assert (difference[~is_tie] == 0).all()
    assert (difference <= 1.001).all()
    assert ours.shape == theirs.shape == x.shape


@given(tensors(limit=4.0), tensors(limit=1e30), schemes())
def test_equal_to_torchs_fake_quantize_per_tensor(x, seen, scheme):
    grid = grid_of(seen, scheme)
    assume(grid.scale > 1e-30)  # its reciprocal must be a float32
    x = x * grid.scale * grid.qmax
    theirs = torch.fake_quantize_per_tensor_affine(
        x, grid.scale.item(), int(grid.zero_point), grid.qmin, grid.qmax
    )
    assert_equal_but_for_ties(x, grid, fake_quantize(x, grid), theirs, grid.scale)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_equal_to_torchs_fake_quantize_per_channel(symmetric, axis, generator):
    scheme = TensorScheme(symmetric=symmetric, granularity="per_channel")
    x = torch.randn(6, 7, 8, generator=generator) * torch.logspace(-3, 3, 8)
    rows = x.movedim(axis, 0).flatten(1)
    grid = choose_qparams(0.9 * rows.amin(1), 0.9 * rows.amax(1), scheme, axis)
    theirs = torch.fake_quantize_per_channel_affine(
        x, grid.scale, grid.zero_point, axis, grid.qmin, grid.qmax
    )
    shape = [1, 1, 1]
    shape[axis] = -1
    assert_equal_but_for_ties(x, grid, fake_quantize(x, grid), theirs, grid.scale.view(shape))


@given(tensors(limit=1e30), schemes())
def test_scale_and_zero_point_follow_the_formulas_in_float64(x, scheme):
    grid = grid_of(x, scheme)
    lo, hi = np.float64(x.min().item()), np.float64(x.max().item())
    if scheme.symmetric:
        expected = max(abs(lo), abs(hi)) / scheme.qmax
    else:
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        expected = (hi - lo) / (scheme.qmax - scheme.qmin)
    if expected < TINY:
        assert grid.scale in (1.0, TINY)
        return
    assert grid.scale.item() == np.float32(expected)
    zero_point = 0 if scheme.symmetric else np.rint(scheme.qmin - lo / expected)
    assert int(grid.zero_point) == np.clip(zero_point, scheme.qmin, scheme.qmax)


# --- dtypes, shapes and bad input -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_other_dtypes_are_computed_in_float32(dtype):
    grid = choose_qparams(scalar(-1.0), scalar(1.0), SYMMETRIC)
    x = torch.tensor([-1.0, 0.0, 0.25, 1.0]).to(dtype)
    assert quantize(x, grid).tolist() == quantize(x.float(), grid).tolist()
    assert fake_quantize(x, grid).dtype == torch.float32


def test_the_input_is_left_alone_in_any_memory_layout():
    x = torch.arange(24.0).view(2, 3, 2, 2).to(memory_format=torch.channels_last)
    before = x.clone()
    grid = choose_qparams(torch.zeros(3), torch.full((3,), 23.0), SYMMETRIC, axis=1)
    expected = quantize(x.contiguous(), grid)
    assert torch.equal(quantize(x, grid), expected)
    assert torch.equal(quantize(x[:, :, :, ::1].transpose(2, 3), grid), expected.transpose(2, 3))
    assert torch.equal(fake_quantize(x, grid), dequantize(expected, grid))
    assert torch.equal(x, before)


def test_empty_and_scalar_tensors():
    grid = choose_qparams(scalar(-1.0), scalar(1.0), SYMMETRIC)
    assert quantize(torch.empty(0, 3), grid).shape == (0, 3)
    assert quantize(torch.tensor(1.0), grid) == 127


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_range_with_nan_or_inf_is_refused(bad):
    with pytest.raises(DataError, match="NaN or Inf"):
        choose_qparams(scalar(-1.0), scalar(bad), SYMMETRIC)
    with pytest.raises(DataError, match="NaN or Inf"):
        choose_qparams(torch.tensor([bad, 0.0]), torch.tensor([1.0, 1.0]), SYMMETRIC, axis=0)


def test_a_range_that_is_upside_down_is_refused():
    with pytest.raises(DataError, match="lo > hi"):
        choose_qparams(scalar(1.0), scalar(-1.0), SYMMETRIC)


@pytest.mark.parametrize(
    ("lo", "hi", "axis"),
    [((3,), (3,), None), ((), (), 0), ((2,), (3,), 0), ((2, 2), (2, 2), 0)],
)
def test_edges_and_axis_must_fit_together(lo, hi, axis):
    with pytest.raises(SchemeError, match="axis is"):
        choose_qparams(torch.zeros(lo), torch.ones(hi), SYMMETRIC, axis)


@pytest.mark.parametrize("shape", [(2, 3), (3,), ()])
@pytest.mark.parametrize("function", [quantize, dequantize, fake_quantize])
def test_a_tensor_with_other_channels_is_refused(shape, function):
    grid = choose_qparams(torch.zeros(4), torch.ones(4), SYMMETRIC, axis=1)
    with pytest.raises(DataError, match="4 channels on axis 1"):
        function(torch.zeros(shape), grid)
