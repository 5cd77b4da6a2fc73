"""Weights with a scale for each group: against NumPy, one group at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_engine import Recipe, analyze, list_executions, quantize_model
from quant_engine.analysis.tensor_reports import weight_report
from quant_engine.errors import DataError, SchemeError
from quant_engine.layers import get_quantized_type
from quant_engine.report import TensorReport
from quant_engine.scheme import OBSERVERS, LayerScheme, TensorScheme
from quant_engine.tensors import affine
from quant_engine.tensors.affine import choose_qparams, dequantize, fake_quantize, quantize
from quant_engine.tensors.observers import choose_weight_qparams
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.strategies import schemes

Array = npt.NDArray[np.float64]

KINDS: dict[str, nn.Module] = {
    "linear": nn.Linear(11, 3),
    "conv2d": nn.Conv2d(4, 6, 3, groups=2),
    "transposed": nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
    "embedding": nn.Embedding(5, 7),
}


def rows_of(weight: Tensor, axis: int) -> Array:
    """The weights of each output channel, one after the other in memory."""
    moved = np.moveaxis(weight.detach().double().numpy(), axis, 0)
    return moved.reshape(len(moved), -1)


def by_hand(rows: Array, scheme: TensorScheme) -> tuple[Array, Array]:
    """Codes and dequantized values of ranges from smallest to largest value, group by group."""
    codes, values = np.zeros_like(rows), np.zeros_like(rows)
    assert scheme.group_size is not None
    for row in range(len(rows)):
        for start in range(0, rows.shape[1], scheme.group_size):
            part = rows[row, start : start + scheme.group_size]
            if scheme.symmetric:
                scale, zero = np.abs(part).max() / scheme.qmax, 0.0
            else:
                lo, hi = min(part.min(), 0.0), max(part.max(), 0.0)
                scale = (hi - lo) / (scheme.qmax - scheme.qmin)
                zero = np.clip(np.round(scheme.qmin - lo / scale), scheme.qmin, scheme.qmax)
            scale = float(np.float32(scale))
            # As the definition says, in float32: on a tie of float64 it could round otherwise.
            steps = np.round((part.astype(np.float32) / np.float32(scale)).astype(np.float64))
            found = np.clip(steps + zero, scheme.qmin, scheme.qmax)
            codes[row, start : start + scheme.group_size] = found
            values[row, start : start + scheme.group_size] = (found - zero) * scale
    return codes, values


@given(
    st.sampled_from(list(KINDS)),
    st.integers(2, 8),
    st.booleans(),
    st.integers(2, 40),
    st.integers(0, 50),
)
def test_codes_are_those_of_each_group_by_hand(
    kind: str, bits: int, symmetric: bool, size: int, seed: int
) -> None:
    module = fill(KINDS[kind], seed)
    scheme = TensorScheme(bits, symmetric, "per_group", group_size=size)

    layer = get_quantized_type(module).from_float(module, LayerScheme(scheme))

    codes, values = by_hand(rows_of(module.weight, layer.channel_axis), scheme)
    assert np.array_equal(rows_of(layer.quantized_weight, layer.channel_axis), codes)
    found = rows_of(layer.dequantized_weight(), layer.channel_axis)
    np.testing.assert_allclose(found, values, rtol=1e-6, atol=0)
    assert torch.equal(fake_quantize(module.weight, layer.weight_qparams), layer.weight)


@settings(max_examples=40)
@given(schemes("per_group"), st.integers(0, 20))
def test_each_group_has_the_range_that_the_rule_gives_it_alone(
    scheme: TensorScheme, seed: int
) -> None:
    weight = seeded((2, 3, 5, 2), seed)
    alone = replace(scheme, granularity="per_channel", group_size=None)

    grid = choose_weight_qparams(weight, scheme, 1)

    rows = weight.movedim(1, 0).reshape(3, -1)
    assert scheme.group_size is not None
    for number, part in enumerate(rows.split(scheme.group_size, dim=1)):
        expected = choose_weight_qparams(part, alone, 0)
        assert torch.equal(grid.scale[:, number], expected.scale)
        assert torch.equal(grid.zero_point[:, number], expected.zero_point)
    assert grid.scale.shape == (3, math.ceil(20 / scheme.group_size))


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [36, 64])
def test_one_group_for_a_row_is_a_scale_per_channel_bit_for_bit(
    observer: str, symmetric: bool, size: int
) -> None:
    module = fill(nn.Conv2d(4, 6, 3))  # 36 weights for each output channel
    scheme = TensorScheme(4, symmetric, "per_channel", observer)
    channels, groups = (
        get_quantized_type(module).from_float(module, LayerScheme(s))
        for s in (scheme, replace(scheme, granularity="per_group", group_size=size))
    )

    assert torch.equal(groups.quantized_weight, channels.quantized_weight)
    assert torch.equal(groups.weight_qparams.scale[:, 0], channels.weight_qparams.scale)
    assert torch.equal(groups.weight, channels.weight)
    by_channel, by_group = (weight_report(module.weight, layer) for layer in (channels, groups))
    same = {"scheme": scheme, "scale": by_channel.scale, "zero_point": by_channel.zero_point}
    assert replace(by_group, **same) == by_channel


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_report_counts_errors_on_the_groups_own_steps(
    kind: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant_engine.tensors.histogram._PIECE", 8)  # many pieces
    module = fill(KINDS[kind])
    scheme = TensorScheme(3, symmetric, "per_group", group_size=4)
    layer = get_quantized_type(module).from_float(module, LayerScheme(scheme))

    report = weight_report(module.weight, layer)

    rows = rows_of(module.weight, layer.channel_axis)
    codes, values = by_hand(rows, scheme)
    assert report.error.mse == pytest.approx(np.mean((rows - values) ** 2), rel=1e-5)
    counts = np.bincount(
        (codes - scheme.qmin).astype(int).ravel(), minlength=len(report.codes.counts)
    )
    assert report.codes.counts == tuple(counts)
    scales = layer.weight_qparams.scale
    assert report.scale == pytest.approx((scales.min().item(), scales.max().item()))
    assert report.channels is not None
    noise = ((rows - values) ** 2).sum(axis=1) / (rows**2).sum(axis=1)
    assert report.channels.sqnr_db == pytest.approx(list(-10 * np.log10(noise)), rel=1e-4)
    assert report.per_channel_sqnr_db is None
    assert report.range_choices == ()
    assert report.error.rmse_over_scale is not None
    assert 0.1 < report.error.rmse_over_scale < 0.5
    assert_examples_are_elements(report, module.weight, layer.weight)


def assert_examples_are_elements(report: TensorReport, weight: Tensor, stand_ins: Tensor) -> None:
    assert len(report.examples) > 3
    for example in report.examples:
        assert example.value == weight[example.index].item()
        assert example.dequantized == stand_ins[example.index].item()
        assert example.dequantized == pytest.approx(
            (example.code - example.zero_point) * example.scale
        )


@pytest.mark.parametrize(
    ("bits", "symmetric", "size", "expected"),
    [(4, True, 128, 4.25), (4, True, 64, 4.5), (4, True, 32, 5.0), (4, False, 32, 5.25)],
)
def test_the_size_counts_every_scale_and_zero_point(
    bits: int, symmetric: bool, size: int, expected: float
) -> None:
    model, x = fill(nn.Sequential(nn.Linear(256, 6))), seeded((4, 256))
    recipe = Recipe(TensorScheme(bits, symmetric, "per_group", group_size=size))

    found = analyze(model, [x], recipe, measure_time=False).size

    groups = 6 * 256 // size
    assert found is not None
    assert found.weight_bytes == 6 * 256 * bits // 8
    assert found.scale_bytes == 4 * groups
    assert found.zero_point_bytes == (0 if symmetric else groups)
    assert found.effective_bits == expected
    assert found.weight_bits == bits


def test_a_short_last_group_is_counted_too() -> None:
    model, x = fill(nn.Sequential(nn.Linear(33, 6))), seeded((4, 33))
    recipe = Recipe(TensorScheme(4, granularity="per_group", group_size=32))
    found = analyze(model, [x], recipe, measure_time=False).size
    assert found is not None
    assert found.scale_bytes == 4 * 6 * 2


def test_integer_arithmetic_is_refused_by_name() -> None:
    model, x = fill(nn.Sequential(nn.Linear(33, 6))), seeded((4, 33))
    scheme = TensorScheme(4, granularity="per_group", group_size=32)
    recipe = Recipe(scheme, TensorScheme(symmetric=False))

    simulated, integer = (
        quantize_model(model, [x], recipe, execution=kind) for kind in ("simulated", "integer")
    )

    (entry,) = list_executions(integer)
    assert entry.execution == "simulated"
    assert "a scale for each group of 32" in entry.reason
    assert torch.equal(simulated(x), integer(x))


def test_a_grid_of_groups_refuses_other_tensors() -> None:
    scheme = TensorScheme(granularity="per_group", group_size=4)
    grid = choose_weight_qparams(seeded((3, 10)), scheme, 0)
    for shape in ((2, 10), (3, 12 + 1)):
        for function in (quantize, fake_quantize, dequantize):
            with pytest.raises(DataError, match="the grid was made for"):
                function(torch.zeros(shape), grid)
    with pytest.raises(SchemeError, match="two matrices"):
        choose_qparams(torch.zeros(3), torch.ones(3), scheme, 0)


@given(st.integers(1, 30))
def test_pieces_of_columns_keep_their_groups(columns: int) -> None:
    rows = seeded((3, 23))
    scheme = TensorScheme(3, False, "per_group", group_size=4)
    grid = choose_weight_qparams(rows, scheme, 0)
    parts = [fake_quantize(x, part) for x, part in affine.split_columns(rows, grid, columns)]
    assert torch.equal(torch.cat(parts, dim=1), fake_quantize(rows, grid))
