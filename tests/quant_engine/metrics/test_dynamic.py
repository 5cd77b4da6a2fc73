"""Dynamically quantized inputs, against a naive count in float64 that knows no streaming."""

from __future__ import annotations

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from quant_engine import ModelReport, analyze
from quant_engine.errors import DataError, StorageError
from quant_engine.layers import get_quantized_type
from quant_engine.metrics.dynamic import DynamicGridStats
from quant_engine.metrics.grid import GridStats
from quant_engine.report.serialization import encode
from quant_engine.scheme import PRESETS, LayerScheme, Recipe, TensorScheme
from quant_engine.tensors.affine import choose_dynamic_qparams, dequantize, fake_quantize, quantize
from tests.quant_engine.strategies import schemes, tensors

ASYMMETRIC = TensorScheme(symmetric=False, is_dynamic=True)
SYMMETRIC = TensorScheme(is_dynamic=True)
DYNAMIC = PRESETS["int8_dynamic"]

each_scheme = pytest.mark.parametrize("symmetric", [True, False])
each_width = pytest.mark.parametrize("bits", [2, 3, 5, 8])


def counted(
    scheme: TensorScheme, *batches: Tensor, drawn: tuple[float, float] | None = None
) -> DynamicGridStats:
    stats = DynamicGridStats(scheme, drawn)
    for batch in batches:
        stats.update(batch)
    return stats


def everything(stats: DynamicGridStats) -> tuple[object, ...]:
    return (
        stats.code_usage(),
        stats.error_histogram(),
        stats.value_histogram(),
        (stats.lo, stats.hi, stats.scale, stats.zero_point),
    )


def two_batches(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of different length, range and offset."""
    wide = 3.0 * torch.randn(40, 30, generator=generator) + 1.0
    return wide, 0.5 * torch.randn(11, 30, generator=generator) - 0.2


class Naive:
    """One batch on the grid of its own range, in numpy and float64."""

    def __init__(self, x: Tensor, scheme: TensorScheme) -> None:
        values = x.double().numpy()
        lo, hi = values.min(), values.max()
        steps = scheme.qmax - scheme.qmin
        if scheme.symmetric:
            exact, self.zero = max(abs(lo), abs(hi)) / scheme.qmax, 0
        else:
            lo, hi = min(lo, 0.0), max(hi, 0.0)
            exact = (hi - lo) / steps
            self.zero = int(np.clip(np.rint(scheme.qmin - lo / exact), scheme.qmin, scheme.qmax))
        self.scale = float(np.float32(exact))
        self.x = values
        # The division is that of float32, as in the layer, or a value near a tie would differ.
        steps_of = (x.numpy() / np.float32(self.scale)).astype(np.float64)
        raw = np.rint(steps_of) + self.zero
        self.codes = np.clip(raw, scheme.qmin, scheme.qmax).astype(np.int64)
        self.is_clipped = raw != self.codes
        self.x_hat = (self.codes - self.zero) * self.scale
        self.lsb = (self.x_hat - self.x) / self.scale

    def cosines(self) -> np.ndarray:
        """One for each sample; 0 where all of it is rounded to 0."""
        norms = np.linalg.norm(self.x, axis=1) * np.linalg.norm(self.x_hat, axis=1)
        products = (self.x * self.x_hat).sum(axis=1)
        return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)


@each_width
@each_scheme
def test_two_batches_equal_a_naive_count(symmetric, bits, generator):
    scheme = TensorScheme(bits=bits, symmetric=symmetric, is_dynamic=True)
    batches = two_batches(generator)
    drawn = (-4.0, 6.0)  # less than the first batch has, so that some values lie beyond
    stats = counted(scheme, *batches, drawn=drawn)
    naive = [Naive(batch, scheme) for batch in batches]
    x, x_hat, lsb, codes, is_clipped = (
        np.concatenate([getattr(n, name).ravel() for n in naive])
        for name in ("x", "x_hat", "lsb", "codes", "is_clipped")
    )

    found = stats.metrics()
    error = x_hat - x
    assert found.count == x.size == 51 * 30
    assert found.mse == pytest.approx((error**2).mean(), rel=1e-5)
    assert found.sqnr_db == pytest.approx(
        10 * math.log10((x**2).sum() / (error**2).sum()), rel=1e-5
    )
    assert found.nmse == pytest.approx((error**2).sum() / (x**2).sum(), rel=1e-5)
    assert found.max_abs_error == pytest.approx(np.abs(error).max(), rel=1e-5)
    assert found.rmse_over_scale == pytest.approx(np.sqrt((lsb**2).mean()), rel=1e-5)
    assert found.clipped_fraction == is_clipped.mean() == 0.0
    assert found.clipping_mse == 0.0
    assert found.rounding_mse == found.mse
    cosines = np.concatenate([n.cosines() for n in naive])
    assert found.cosine == pytest.approx(cosines.mean(), rel=1e-5)

    levels = scheme.qmax - scheme.qmin + 1
    expected_codes = np.bincount(codes - scheme.qmin, minlength=levels)
    assert list(stats.code_usage().counts) == expected_codes.tolist()
    assert stats.code_usage().qmin == scheme.qmin

    errors = stats.error_histogram()
    expected_lsb, _ = np.histogram(lsb, len(errors.counts), (errors.lo, errors.hi))
    # float32 moves a few errors over an edge
    assert np.abs(np.array(errors.counts) - expected_lsb).sum() <= 6
    assert errors.below == errors.above == 0

    values = stats.value_histogram()
    window = (values.lo, values.hi)
    bins = len(values.float_counts)
    expected_before, _ = np.histogram(x, bins, window)
    expected_after, _ = np.histogram(x_hat, bins, window)
    assert np.abs(np.array(values.float_counts) - expected_before).sum() <= 2
    assert np.abs(np.array(values.quantized_counts) - expected_after).sum() <= 2
    assert (values.float_below, values.float_above) == (
        (x < window[0]).sum(),
        (x > window[1]).sum(),
    )
    assert values.float_above > 0
    assert values.quantized_below == (x_hat < window[0]).sum()
    assert values.quantized_above == (x_hat > window[1]).sum()

    assert (stats.lo, stats.hi) == (x.min(), x.max())
    scales = sorted(n.scale for n in naive)
    assert stats.scale == pytest.approx(tuple(scales), rel=1e-7)
    assert stats.scale[0] < stats.scale[1]
    assert stats.zero_point == (min(n.zero for n in naive), max(n.zero for n in naive))


@given(tensors((6, 4), limit=1e15), tensors((3, 4), limit=1e15), schemes("per_tensor"))
def test_a_batch_becomes_what_the_layer_makes_of_it(a, b, scheme):
    stats = DynamicGridStats(scheme)
    for x in (a, b):
        assert torch.equal(stats.update(x), fake_quantize(x, choose_dynamic_qparams(x, scheme)))
    assert sum(stats.code_usage().counts) == stats.metrics().count == a.numel() + b.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_become_what_the_layer_makes_of_them(dtype, generator):
    layer = nn.Linear(5, 3).to(dtype)
    x = torch.randn(4, 5, generator=generator).to(dtype)
    scheme = LayerScheme(TensorScheme(), ASYMMETRIC)
    quantized = get_quantized_type(layer).from_float(layer, scheme)
    assert torch.equal(DynamicGridStats(ASYMMETRIC).update(x), quantized.simulate_input(x))


@given(tensors((4, 5), limit=1e15), schemes("per_tensor"))
def test_one_batch_counts_as_on_the_grid_of_its_range(x, scheme):
    stats = counted(scheme, x)
    grid = choose_dynamic_qparams(x, scheme)
    plain = GridStats(grid)
    plain.update(x)
    assert stats.metrics() == plain.metrics()
    assert stats.code_usage() == plain.code_usage()
    assert stats.error_histogram() == plain.error_histogram()
    assert stats.scale == (grid.scale.item(),) * 2
    assert stats.zero_point == (int(grid.zero_point),) * 2


@given(tensors((6, 4), limit=1e15), schemes("per_tensor"))
def test_no_value_is_lost_and_none_lies_beyond_its_own_range(x, scheme):
    values = counted(scheme, x).value_histogram()
    assert sum(values.float_counts) == sum(values.quantized_counts) == x.numel()
    assert 1 <= len(values.float_counts) <= 257


@each_scheme
def test_what_stays_in_the_drawn_range_is_drawn_though_rounding_moves_it(symmetric, generator):
    scheme = TensorScheme(symmetric=symmetric, is_dynamic=True)
    for share in torch.rand(200, generator=generator).tolist():
        values = counted(scheme, torch.tensor([[-1.0, share]]), drawn=(-1.0, 1.7)).value_histogram()
        beyond = (values.float_below, values.quantized_below)
        beyond += (values.float_above, values.quantized_above)
        assert beyond == (0, 0, 0, 0), share


@each_width
@each_scheme
def test_bins_hold_equally_many_codes_for_a_batch_of_the_drawn_range(symmetric, bits):
    scheme = TensorScheme(bits=bits, symmetric=symmetric, is_dynamic=True)
    grid = choose_dynamic_qparams(torch.tensor([-1.0, 1.3]), scheme)
    codes = torch.arange(grid.qmin, grid.qmax + 1)
    on_grid = dequantize(codes, grid).repeat_interleave(10)
    drawn = (float(on_grid.min()), float(on_grid.max()))
    found = counted(scheme, on_grid[None], drawn=drawn).value_histogram()
    assert found.float_counts == found.quantized_counts
    filled = {n for n in found.quantized_counts[:-1] if n}
    assert len(filled) == 1


def test_only_a_tie_at_the_end_of_a_range_counts_as_clipped_by_half_a_step():
    found = counted(ASYMMETRIC, torch.tensor([[-1.5, 253.5]])).metrics()
    assert found.clipped_fraction == 0.5
    assert found.max_abs_error == 0.5


def test_merging_equals_having_seen_both_streams(generator):
    first, second = two_batches(generator)
    third = 7.0 * torch.randn(5, 30, generator=generator)
    drawn = (-5.0, 5.0)
    whole = counted(ASYMMETRIC, first, second, third, drawn=drawn)
    merged = counted(ASYMMETRIC, first, drawn=drawn)
    merged.merge(counted(ASYMMETRIC, second, third, drawn=drawn))
    assert everything(merged) == everything(whole)
    assert merged.first.scale == whole.first.scale
    for name, value in encode(whole.metrics()).items():
        assert getattr(merged.metrics(), name) == pytest.approx(value, rel=1e-12), name


def test_how_data_is_cut_into_batches_changes_the_figures(generator):
    wide, narrow = two_batches(generator)
    together = counted(ASYMMETRIC, torch.cat([wide, narrow]))
    apart = counted(ASYMMETRIC, wide, narrow)
    assert together.metrics().sqnr_db < apart.metrics().sqnr_db
    assert together.scale[0] == together.scale[1] == apart.scale[1]


def test_memory_does_not_grow_with_the_batches(generator):
    stats = counted(ASYMMETRIC, torch.randn(4, 8, generator=generator))
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(200):
            stats.update(torch.randn(4, 8, generator=generator))
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = sum(entry.size_diff for entry in after.compare_to(before, "filename"))
    assert grown < 20_000


def test_an_empty_batch_counts_nothing_and_is_not_the_first(generator):
    x = torch.randn(3, 4, generator=generator)
    stats = counted(ASYMMETRIC, torch.empty(0, 4), x)
    assert everything(stats) == everything(counted(ASYMMETRIC, x))
    assert stats.first.scale == choose_dynamic_qparams(x, ASYMMETRIC).scale


def test_nothing_seen_gives_empty_figures():
    stats = DynamicGridStats(SYMMETRIC)
    assert stats.metrics().rmse_over_scale == 0.0
    assert sum(stats.code_usage().counts) == sum(stats.value_histogram().float_counts) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(DataError):
        DynamicGridStats(ASYMMETRIC).update(torch.tensor([[1.0, bad]]))


# --- in an analysis -------------------------------------------------------------------------------


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def analyzed(model: nn.Module, batches: list[Tensor], recipe: Recipe = DYNAMIC) -> ModelReport:
    calibration = torch.randn(20, *batches[0].shape[1:], generator=torch.manual_seed(5))
    return analyze(
        model, calibration, recipe, evaluation_data=batches, measure_time=False, model_name="tiny"
    )


def test_a_dynamic_input_is_reported_like_any_other(model, generator):
    batches = two_batches(generator)
    report = analyzed(model, list(batches))
    entry = report.layers[0].input
    scheme = DYNAMIC.activation
    assert entry.is_dynamic
    assert entry.scheme == scheme
    expected = counted(scheme, *batches)
    assert entry.error == expected.metrics()
    assert entry.lsb_error == expected.error_histogram()
    assert entry.codes == expected.code_usage()
    assert entry.scale == pytest.approx(expected.scale, rel=1e-8)
    assert entry.zero_point == expected.zero_point
    assert (entry.lo, entry.hi) == (expected.lo, expected.hi)
    assert entry.range_choices == ()
    assert entry.channels is None
    assert (report.evaluation_batches, report.evaluation_batch_size) == (2, 40)
    assert report.layers[1].input.lo == 0.0  # behind the ReLU


def test_values_are_drawn_over_the_range_of_the_calibration(model, generator):
    wide, narrow = two_batches(generator)
    values = analyzed(model, [wide, narrow]).layers[0].input.values
    calibration = torch.randn(20, 30, generator=torch.manual_seed(5))
    step = choose_dynamic_qparams(calibration, ASYMMETRIC).scale.item()
    assert 0 <= calibration.min().item() - values.lo <= 1.5 * step
    assert 0 <= values.hi - calibration.max().item() <= 2.5 * step
    x = torch.cat([wide, narrow])
    assert values.float_above == (x > values.hi).sum() > 0


def test_the_example_is_worked_on_the_grid_of_the_first_batch(model, generator):
    wide, narrow = two_batches(generator)
    for batches in ([wide, narrow], [narrow, wide]):
        example = analyzed(model, batches).layers[0].input.example
        grid = choose_dynamic_qparams(batches[0], ASYMMETRIC)
        assert example.scale == grid.scale.item()
        assert example.zero_point == int(grid.zero_point)
        assert example.value == batches[0][example.index].item()
        code = quantize(batches[0], grid)[example.index]
        assert example.code == int(code)
        assert example.dequantized == dequantize(code, grid).item()


def test_the_local_output_is_that_of_the_layer(model, generator):
    """The rounding that is counted is handed on; the layer would make the same of it."""
    batches = list(two_batches(generator))
    local = analyzed(model, batches).layers[0].local_error
    layer = model[0]
    quantized = get_quantized_type(layer).from_float(
        layer, LayerScheme(DYNAMIC.weight, DYNAMIC.activation)
    )
    with torch.no_grad():
        pairs = [(layer(x).double(), quantized(x).double()) for x in batches]
    noise = sum(float((y - y_hat).square().sum()) for y, y_hat in pairs)
    assert local.mse == pytest.approx(noise / (51 * 8), rel=1e-6)


class Twice(nn.Module):
    """Calls one module twice in a pass, on values of different range."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(0.1 * x) + self.shared(x)


def test_a_module_called_twice_has_a_range_for_each_call(generator):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Twice().eval()
    batches = [torch.randn(n, 4, generator=generator) for n in (6, 9)]
    layer = analyzed(model, batches).layers[0]
    assert layer.calls == 2
    expected = counted(DYNAMIC.activation, *(part for x in batches for part in (0.1 * x, x)))
    assert layer.input.error == expected.metrics()
    assert layer.input.codes == expected.code_usage()
    assert layer.input.lsb_error == expected.error_histogram()
    assert layer.input.scale == pytest.approx(expected.scale, rel=1e-8)
    assert layer.input.scale[0] < 0.2 * layer.input.scale[1]
    assert layer.input.example.scale == expected.first.scale.item()


class Routed(nn.Module):
    """Sends positive samples through one layer, which may get none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.expert = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, 0] > 0
        y = self.gate(x)
        y[chosen] = self.expert(x[chosen])
        return y


@pytest.mark.parametrize("preset", ["int8_per_channel", "int8_dynamic"])
def test_a_layer_whose_first_input_is_empty_is_reported_from_the_next(preset, generator):
    model = Routed().eval()
    batches = [-torch.rand(5, 4, generator=generator), torch.rand(6, 4, generator=generator) + 0.1]
    report = analyzed(model, batches, PRESETS[preset])
    expert = report.layer("expert")
    assert expert.input_shape == (6, 4)
    assert expert.input.error.count == 24
    assert batches[1][expert.input.example.index].item() == expert.input.example.value


class Forked(nn.Module):
    """Runs a layer only where the batch is long."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.rarely = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.always(x)
        return self.rarely(y) if len(x) > 30 else y


def test_a_layer_that_calibration_never_ran_draws_the_range_of_its_first_batch(generator):
    report = analyzed(Forked().eval(), [torch.randn(n, 4, generator=generator) for n in (3, 31)])
    entry = report.layer("rarely").input
    assert entry.values.lo < entry.lo < entry.hi < entry.values.hi
    assert sum(entry.values.float_counts) == entry.error.count == 31 * 4


def test_a_layer_that_never_ran_is_not_reported_on(generator):
    report = analyzed(Forked().eval(), [torch.randn(3, 4, generator=generator)])
    assert report.layer("rarely").input is None
    assert report.layer("rarely").has_dynamic_input


def test_no_input_is_reported_before_it_was_measured(model, generator):
    seen = []
    analyze(
        model,
        torch.randn(8, 30, generator=generator),
        DYNAMIC,
        measure_time=False,
        on_update=lambda report: seen.append(report()),
    )
    assert seen[0].layers[0].input is None
    assert seen[0].evaluation_batches == 0
    assert seen[-1].layers[0].input is not None


def test_a_report_survives_json(model, generator):
    report = analyzed(model, list(two_batches(generator)))
    back = ModelReport.from_json(report.to_json())
    assert back == report
    assert back.layers[0].input.is_dynamic


def test_a_report_that_lacks_its_batches_is_refused(model, generator):
    report = analyzed(model, list(two_batches(generator)))
    data = json.loads(report.to_json())
    del data["evaluation_batches"]
    with pytest.raises(StorageError, match="evaluation_batches"):
        ModelReport.from_json(json.dumps(data))


def test_a_bad_input_is_named_with_its_layer():
    class Bad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.where(x > 50, math.nan, x)).nan_to_num()

    with pytest.raises(DataError, match="The input of layer 'layer' holds NaN or Inf"):
        analyzed(Bad().eval(), [torch.full((2, 4), 99.0)])
