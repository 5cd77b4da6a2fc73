from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant_engine import Int8Quantizer
from quant_engine.errors import DataError, NotCalibratedError, SchemeError
from quant_engine.scheme import OBSERVERS, TensorScheme
from quant_engine.tensors.affine import choose_qparams, quantize
from quant_engine.tensors.histogram import Histogram
from quant_engine.tensors.observers import choose_input_qparams, choose_weight_qparams
from tests.quant_engine.strategies import tensors

each_observer = pytest.mark.parametrize("observer", OBSERVERS)
each_symmetry = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])


def calibrated(*batches: torch.Tensor, **arguments) -> Int8Quantizer:
    quantizer = Int8Quantizer(**arguments)
    for batch in batches:
        quantizer.calibrate(batch)
    return quantizer


def round_trip(quantizer: Int8Quantizer, x: torch.Tensor) -> torch.Tensor:
    return quantizer.dequantize(quantizer.quantize(x))


def params(quantizer: Int8Quantizer) -> dict[str, object]:
    found = quantizer.get_quantization_params()
    return {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in found.items()}


# --- the names people know ------------------------------------------------------------------------


def test_the_signature_is_the_known_one():
    parameters = inspect.signature(Int8Quantizer).parameters
    known = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert known == {"symmetric": True, "per_channel": False, "channel_axis": 0}
    assert list(inspect.signature(Int8Quantizer.calibrate).parameters) == ["self", "tensor"]
    assert list(inspect.signature(Int8Quantizer.quantize).parameters) == ["self", "tensor"]
    assert "quantized_tensor" in inspect.signature(Int8Quantizer.dequantize).parameters
    setter = inspect.signature(Int8Quantizer.set_quantization_params).parameters
    assert list(setter) == ["self", "scale", "zero_point"]


def test_parameters_before_and_after_calibration():
    quantizer = Int8Quantizer()
    assert quantizer.get_quantization_params() == {
        "scale": None,
        "zero_point": None,
        "symmetric": True,
        "per_channel": False,
        "channel_axis": 0,
        "is_calibrated": False,
    }
    quantizer.calibrate(torch.tensor([-12.7, 3.0]))
    assert quantizer.get_quantization_params() == {
        "scale": pytest.approx(0.1),
        "zero_point": 0,
        "symmetric": True,
        "per_channel": False,
        "channel_axis": 0,
        "is_calibrated": True,
    }
    assert isinstance(quantizer.scale, float)
    assert isinstance(quantizer.zero_point, int)


def test_parameters_per_channel_are_tensors():
    x = torch.tensor([[-1.27, 0.5], [0.0, 25.5]])
    found = calibrated(x, symmetric=False, per_channel=True).get_quantization_params()
    torch.testing.assert_close(found["scale"], torch.tensor([1.77 / 255, 0.1]))
    assert found["zero_point"].dtype == torch.int8
    assert found["zero_point"].tolist() == [55, -128]


# --- golden values and properties -----------------------------------------------------------------


def test_asymmetric_by_hand():
    quantizer = calibrated(torch.tensor([-1.0, 4.1]), symmetric=False)
    assert (quantizer.scale, quantizer.zero_point) == (pytest.approx(0.02), -78)
    codes = quantizer.quantize(torch.tensor([-1.0, 0.0, 4.1, 99.0]))
    assert codes.tolist() == [-128, -78, 127, 127]
    expected = torch.tensor([-1.0, 0.0, 4.1, 4.1])
    torch.testing.assert_close(quantizer.dequantize(codes), expected)


@given(tensors(), st.booleans(), st.booleans())
def test_the_error_is_at_most_half_a_step(x, symmetric, per_channel):
    quantizer = calibrated(x, symmetric=symmetric, per_channel=per_channel)
    scale = torch.as_tensor(quantizer.scale, dtype=torch.float64)
    if per_channel:
        scale = scale.view(-1, *(1 for _ in x.shape[1:]))
    codes = quantizer.quantize(x)
    assert codes.dtype == torch.int8
    assert (codes >= (-127 if symmetric else -128)).all()
    error = (quantizer.dequantize(codes).double() - x.double()).abs()
    assert (error <= (0.5 + 1e-4) * scale).all()


@each_observer
@each_symmetry
def test_grids_are_those_of_the_engine(observer, symmetric, generator):
    x = torch.randn(6, 500, generator=generator)
    scheme = TensorScheme(symmetric=symmetric, observer=observer)
    histogram = Histogram()
    histogram.update(x)
    grid = choose_input_qparams(histogram, scheme)
    quantizer = calibrated(x, symmetric=symmetric, observer=observer)
    assert quantizer.scale == grid.scale.item()
    assert quantizer.zero_point == int(grid.zero_point)
    assert torch.equal(quantizer.quantize(x), quantize(x, grid))


@each_symmetry
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_channels_lie_on_any_axis(symmetric, axis, generator):
    x = torch.randn(4, 5, 6, generator=generator)
    scheme = TensorScheme(symmetric=symmetric, granularity="per_channel")
    grid = choose_weight_qparams(x, scheme, axis)
    quantizer = calibrated(x, symmetric=symmetric, per_channel=True, channel_axis=axis)
    assert torch.equal(quantizer.scale, grid.scale)
    assert torch.equal(quantizer.quantize(x), quantize(x, grid))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_fewer_bits_use_fewer_codes(bits, generator):
    x = torch.randn(1000, generator=generator)
    codes = calibrated(x, symmetric=False, bits=bits).quantize(x)
    assert (int(codes.min()), int(codes.max())) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


# --- what went wrong elsewhere --------------------------------------------------------------------


def test_values_from_10_to_11_lose_half_a_step_and_not_ten():
    x = torch.linspace(10.0, 11.0, 1000)
    error = (round_trip(calibrated(x, symmetric=False), x) - x).abs().max()
    assert error <= 11.0 / 255 / 2 + 1e-6


@each_symmetry
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("value", [5.0, -5.0, 0.0, 1e-30, 1e30])
def test_a_constant_comes_back(symmetric, per_channel, value):
    x = torch.full((3, 4), value)
    quantizer = calibrated(x, symmetric=symmetric, per_channel=per_channel)
    torch.testing.assert_close(round_trip(quantizer, x), x, rtol=1e-6, atol=0.0)


def test_one_channel_of_zeros_leaves_the_others_as_they_are():
    x = torch.tensor([[0.0, 0.0], [1.27, -1.0]])
    back = round_trip(calibrated(x, per_channel=True), x)
    torch.testing.assert_close(back, x)


@each_observer
@each_symmetry
@pytest.mark.parametrize("per_channel", [True, False])
def test_batches_give_the_grid_of_all_their_values(observer, symmetric, per_channel, generator):
    batches = [s * torch.randn(3, 200, generator=generator) for s in (0.1, 5.0, 1.0)]
    arguments = {"symmetric": symmetric, "per_channel": per_channel, "observer": observer}
    together = calibrated(torch.cat(batches, dim=1), **arguments)
    assert params(calibrated(*batches, **arguments)) == params(together)
    assert params(calibrated(*reversed(batches), **arguments)) == params(together)


def test_a_second_batch_widens_the_range_and_a_narrow_one_keeps_it():
    quantizer = calibrated(torch.tensor([1.0]), torch.tensor([127.0]), torch.tensor([-2.0]))
    assert quantizer.scale == 1.0


def test_reset_forgets_what_was_seen():
    quantizer = calibrated(torch.tensor([1000.0]))
    quantizer.reset()
    assert not quantizer.is_calibrated
    quantizer.calibrate(torch.tensor([127.0]))
    assert quantizer.scale == 1.0


# --- setting the grid by hand ---------------------------------------------------------------------


def test_a_grid_set_by_hand_is_used():
    quantizer = Int8Quantizer(symmetric=False)
    quantizer.set_quantization_params(0.5, -3)
    assert quantizer.is_calibrated
    assert quantizer.quantize(torch.tensor([1.0, 0.0])).tolist() == [-1, -3]
    assert quantizer.dequantize(torch.tensor([-1, -3])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_grid_moves_from_one_quantizer_to_another(per_channel, generator):
    x = torch.randn(4, 5, generator=generator)
    source = calibrated(x, symmetric=False, per_channel=per_channel)
    copied = Int8Quantizer(symmetric=False, per_channel=per_channel)
    found = source.get_quantization_params()
    copied.set_quantization_params(found["scale"], found["zero_point"])
    assert params(copied) == params(source)
    assert torch.equal(copied.quantize(x), source.quantize(x))


def test_one_zero_point_serves_all_channels():
    quantizer = Int8Quantizer(per_channel=True)
    quantizer.set_quantization_params(torch.tensor([0.5, 1.0]), 0)
    assert quantizer.zero_point.tolist() == [0, 0]
    assert quantizer.quantize(torch.tensor([[1.0], [1.0]])).tolist() == [[2], [1]]


def test_calibration_after_a_grid_by_hand_starts_anew():
    quantizer = calibrated(torch.tensor([1000.0]))
    quantizer.set_quantization_params(0.5, 0)
    quantizer.calibrate(torch.tensor([127.0]))
    assert quantizer.scale == 1.0


def test_the_scale_handed_out_is_a_copy():
    quantizer = calibrated(torch.tensor([[127.0]]), per_channel=True)
    quantizer.scale[0] = 9.0
    assert quantizer.scale.tolist() == [1.0]


@pytest.mark.parametrize(
    ("arguments", "scale", "zero_point", "message"),
    [
        ({}, 0.0, 0, "It must be positive and finite"),
        ({}, -1.0, 0, "It must be positive and finite"),
        ({}, math.nan, 0, "It must be positive and finite"),
        ({}, math.inf, 0, "It must be positive and finite"),
        ({}, 1e-60, 0, "It must be positive and finite"),
        ({}, 1.0, 3, "0 with symmetric=True"),
        ({"symmetric": False}, 1.0, 128, "-128 to 127"),
        ({"symmetric": False, "bits": 4}, 1.0, 8, "-8 to 7"),
        ({"symmetric": False}, 1.0, 0.5, "must be an integer"),
        ({}, torch.ones(3), 0, r"scale has shape \(3,\)"),
        ({"per_channel": True}, 1.0, 0, "one entry per channel"),
        ({"per_channel": True}, torch.ones(3), torch.zeros(2), r"zero_point \(2,\)"),
        ({"per_channel": True}, torch.ones(3, 1), 0, r"scale has shape \(3, 1\)"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(arguments, scale, zero_point, message):
    quantizer = calibrated(torch.tensor([[127.0]]), **arguments)
    before = params(quantizer)
    with pytest.raises(SchemeError, match=message):
        quantizer.set_quantization_params(scale, zero_point)
    assert params(quantizer) == before


# --- bad input ------------------------------------------------------------------------------------


def test_quantizing_uncalibrated_warns_and_takes_the_tensors_own_range():
    quantizer = Int8Quantizer()
    with pytest.warns(UserWarning, match="never calibrated"):
        codes = quantizer.quantize(torch.tensor([12.7, -0.1]))
    assert codes.tolist() == [127, -1]
    assert quantizer.is_calibrated


def test_dequantizing_uncalibrated_is_an_error():
    with pytest.raises(NotCalibratedError, match=r"Call calibrate\(\)"):
        Int8Quantizer().dequantize(torch.tensor([1]))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.empty(0, 3), r"shape \(0, 3\) and no values"),
        (torch.tensor([1.0, math.nan]), "1 NaN, Inf"),
        (torch.tensor([math.inf, -math.inf]), "2 NaN, Inf"),
        (torch.tensor([1e300], dtype=torch.float64), "beyond float32"),
        (torch.tensor([1j]), "complex64. Give real numbers"),
        ([1.0, 2.0], "Expected a torch tensor, got list"),
    ],
)
def test_bad_tensors_are_refused_and_change_nothing(tensor, message):
    quantizer = calibrated(torch.tensor([127.0]))
    before = params(quantizer)
    with pytest.raises(DataError, match=message):
        quantizer.calibrate(tensor)
    with pytest.raises(DataError, match=message):
        quantizer.quantize(tensor)
    assert params(quantizer) == before


@each_observer
def test_another_number_of_channels_is_refused_and_changes_nothing(observer):
    quantizer = calibrated(torch.ones(3, 4), per_channel=True, observer=observer)
    before = params(quantizer)
    with pytest.raises(DataError, match="5 channels on axis 0, those before it had 3"):
        quantizer.calibrate(torch.ones(5, 4))
    with pytest.raises(DataError, match="3 channels on axis 0"):
        quantizer.quantize(torch.ones(5, 4))
    assert params(quantizer) == before


def test_a_missing_axis_is_refused():
    quantizer = Int8Quantizer(per_channel=True, channel_axis=2)
    with pytest.raises(DataError, match=r"channel_axis is 2, but the tensor has shape \(3, 4\)"):
        quantizer.calibrate(torch.ones(3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symmetric": 1}, "symmetric is 1"),
        ({"per_channel": "yes"}, "per_channel is 'yes'"),
        ({"channel_axis": 1.0}, "channel_axis is 1.0"),
        ({"channel_axis": True}, "channel_axis is True"),
        ({"bits": 16}, "bits is 16"),
        ({"observer": "max"}, "observer is 'max'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused(arguments, message):
    with pytest.raises(SchemeError, match=message):
        Int8Quantizer(**arguments)


def test_the_tensor_is_left_alone_and_may_have_any_dtype_and_layout(generator):
    x = torch.randn(4, 6, generator=generator).requires_grad_()
    before = x.detach().clone()
    quantizer = calibrated(x.T)
    assert torch.equal(quantizer.quantize(x.T), quantizer.quantize(x).T)
    assert not quantizer.quantize(x).requires_grad
    assert torch.equal(x.detach(), before)
    assert quantizer.quantize(x.double()).equal(quantizer.quantize(x))
    integers = torch.tensor([1, 2, 127])
    assert calibrated(integers).quantize(integers).tolist() == [1, 2, 127]


def test_copies_are_independent():
    quantizer = calibrated(torch.tensor([127.0]))
    copied = copy.deepcopy(quantizer)
    copied.calibrate(torch.tensor([254.0]))
    assert (quantizer.scale, copied.scale) == (1.0, 2.0)


def test_printing_shows_the_settings():
    assert repr(Int8Quantizer(per_channel=True, channel_axis=1)) == (
        "Int8Quantizer(symmetric=True, per_channel=True, channel_axis=1): not calibrated"
    )
    assert repr(calibrated(torch.ones(1))).endswith(": calibrated")


def test_the_grid_is_the_engines_for_any_range():
    quantizer = calibrated(torch.tensor([-0.3, 0.9]), symmetric=False)
    grid = choose_qparams(torch.tensor(-0.3), torch.tensor(0.9), TensorScheme(symmetric=False))
    assert quantizer.scale == grid.scale.item()
