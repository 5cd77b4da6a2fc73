from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from quant_engine.errors import DataError
from quant_engine.metrics.energies import ErrorStats, to_nmse, to_sqnr_db
from quant_engine.metrics.grid import GridStats
from quant_engine.report.serialization import encode
from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import QParams, choose_qparams, fake_quantize, quantize
from quant_engine.tensors.observers import choose_weight_qparams
from tests.quant_engine.strategies import schemes, tensors

UNIT = QParams(torch.tensor(1.0), torch.tensor(0), -7, 7)


def compared(*pairs: tuple[torch.Tensor, torch.Tensor]) -> ErrorStats:
    stats = ErrorStats()
    for x, x_hat in pairs:
        stats.update(x, x_hat)
    return stats


def rounded(qparams: QParams, *batches: torch.Tensor, window=None) -> GridStats:
    stats = GridStats(qparams, window)
    for batch in batches:
        stats.update(batch)
    return stats


def everything(stats: GridStats) -> tuple[object, ...]:
    return (
        stats.metrics(),
        stats.code_usage(),
        stats.error_histogram(),
        stats.value_histogram(),
    )


# --- energies -------------------------------------------------------------------------------------


def test_energies_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    x_hat = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    found = compared((x, x_hat)).metrics()
    # Σx² = 29, Σ(x-x̂)² = 17; cosines 3/5 and 1.
    assert found.count == 4
    assert found.sqnr_db == pytest.approx(10 * math.log10(29 / 17))
    assert found.nmse == pytest.approx(17 / 29)
    assert found.mse == pytest.approx(17 / 4)
    assert found.cosine == pytest.approx(0.8)
    assert found.max_abs_error == 4.0
    assert found.rmse_over_scale is found.rounding_mse is found.clipped_fraction is None


def numpy_metrics(x, x_hat):
    x, x_hat = x.double().numpy(), x_hat.double().numpy()
    rows, rows_hat = x.reshape(len(x), -1), x_hat.reshape(len(x), -1)
    error = x - x_hat
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(rows_hat, axis=1)
    return {
        "sqnr_db": 10 * np.log10((x**2).sum() / (error**2).sum()),
        "nmse": (error**2).sum() / (x**2).sum(),
        "mse": (error**2).mean(),
        "max_abs_error": np.abs(error).max(),
        "cosine": ((rows * rows_hat).sum(axis=1) / norms).mean(),
    }


@pytest.mark.parametrize("noise", [1e-6, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(50, 10), (8, 3, 5, 5)])
def test_figures_equal_numpys_in_float64(noise, shape, generator):
    x = torch.randn(shape, generator=generator)
    x_hat = x + noise * torch.randn(shape, generator=generator)
    found = compared((x, x_hat)).metrics()
    for name, expected in numpy_metrics(x, x_hat).items():
        # The cosine comes from three energies; where the error is large, so is what cancels.
        tolerance = 1e-8 * max(noise, 1.0) if name == "cosine" else 0.0
        assert getattr(found, name) == pytest.approx(expected, rel=1e-6, abs=tolerance), name


@given(tensors((6, 4), limit=1e15), tensors((6, 4), limit=1e15))
def test_batches_add_up_to_the_whole(x, x_hat):
    whole = compared((x, x_hat)).metrics()
    parts = compared((x[:1], x_hat[:1]), (x[1:4], x_hat[1:4]), (x[4:], x_hat[4:])).metrics()
    first, second = compared((x[:2], x_hat[:2])), compared((x[2:], x_hat[2:]))
    first.merge(second)
    for other in (parts, first.metrics()):
        assert other.count == whole.count
        assert other.max_abs_error == whole.max_abs_error
        for name in ("sqnr_db", "nmse", "mse", "cosine"):
            expected = getattr(whole, name)
            assert getattr(other, name) == pytest.approx(expected, rel=1e-12, abs=1e-300), name


@given(tensors((3, 4), limit=1e37), tensors((3, 4), limit=1e37))
def test_cosines_are_cosines(x, x_hat):
    stats = compared((x, x_hat))
    assert -3.0 <= stats.cosine_sum <= 3.0
    assert compared((x, x)).cosine_sum == pytest.approx(3.0, abs=1e-12)
    assert not math.isnan(stats.cosine_sum)


def test_an_exact_stand_in_has_infinite_sqnr():
    x = torch.tensor([[1.0, -2.0]])
    found = compared((x, x)).metrics()
    assert (found.sqnr_db, found.nmse, found.cosine, found.mse) == (math.inf, 0.0, 1.0, 0.0)


def test_a_signal_of_zeros_with_noise_is_all_noise():
    zeros, ones = torch.zeros(1, 3), torch.ones(1, 3)
    found = compared((zeros, ones)).metrics()
    assert (found.sqnr_db, found.nmse, found.cosine) == (-math.inf, math.inf, 0.0)
    assert compared((zeros, zeros)).metrics().cosine == 1.0


def test_a_wrong_scale_shows_in_sqnr_though_not_in_the_cosine():
    x = torch.tensor([[1.0, 2.0, 3.0]])
    found = compared((x, 2 * x)).metrics()
    assert found.cosine == pytest.approx(1.0)
    assert found.sqnr_db == pytest.approx(0.0)


def test_sqnr_does_not_depend_on_the_batch_size(generator):
    x = torch.randn(64, 10, generator=generator)
    x_hat = x + 0.1
    single = compared(*((x[i : i + 1], x_hat[i : i + 1]) for i in range(64))).sqnr_db
    assert single == pytest.approx(compared((x, x_hat)).sqnr_db, rel=1e-12)


def test_nothing_seen_means_nothing_lost():
    found = compared((torch.empty(0, 3), torch.empty(0, 3))).metrics()
    assert (found.count, found.sqnr_db, found.mse, found.cosine) == (0, math.inf, 0.0, 1.0)


def test_other_dtypes_and_gradients_are_no_obstacle():
    x = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    found = compared((x, torch.tensor([[1.0, 1.0]], dtype=torch.float64))).metrics()
    assert found.mse == 0.5


def test_shapes_that_differ_are_refused():
    with pytest.raises(DataError, match=r"\(2, 3\) and \(3, 2\)"):
        ErrorStats().update(torch.zeros(2, 3), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("signal", "noise", "db", "ratio"),
    [
        (100.0, 1.0, 20.0, 0.01),
        (1.0, 100.0, -20.0, 100.0),
        (1.0, 0.0, math.inf, 0.0),
        (0.0, 0.0, math.inf, 0.0),
        (0.0, 1.0, -math.inf, math.inf),
    ],
)
def test_ratios(signal, noise, db, ratio):
    assert to_sqnr_db(signal, noise) == db
    assert to_nmse(signal, noise) == ratio


# --- rounding to a grid ---------------------------------------------------------------------------


def test_rounding_and_clipping_by_hand():
    stats = rounded(UNIT, torch.tensor([[0.25, -3.0, 7.4, 9.0]]))
    found = stats.metrics()
    # Errors -0.25, 0, -0.4, -2; only 9.0 has a code outside the grid.
    assert found.mse == pytest.approx((0.0625 + 0.16 + 4.0) / 4)
    assert found.clipping_mse == pytest.approx(4.0 / 4)
    assert found.rounding_mse == pytest.approx((0.0625 + 0.16) / 4)
    assert found.clipped_fraction == 0.25
    assert found.rmse_over_scale == pytest.approx(math.sqrt(found.mse))
    assert found.max_abs_error == 2.0
    usage = stats.code_usage()
    assert usage.qmin == -7
    assert [code for code, n in enumerate(usage.counts, -7) for _ in range(n)] == [-3, 0, 7, 7]
    assert usage.codes_used == 3
    errors = stats.error_histogram()
    assert (errors.lo, errors.hi, errors.below, errors.above) == (-1.0, 1.0, 1, 0)
    assert sum(errors.counts) == 3


@given(tensors(limit=1e18), tensors(limit=1e18), schemes("per_tensor"))
def test_the_errors_are_those_of_fake_quantize(x, seen, scheme):
    grid = choose_qparams(seen.min(), seen.max(), scheme)
    assert rounded(grid, x).errors == compared((x, fake_quantize(x, grid)))


@given(tensors((2, 3, 4), limit=1e18), schemes("per_channel"))
def test_the_errors_are_those_of_fake_quantize_per_channel(x, scheme):
    grid = choose_weight_qparams(x, scheme, 1)
    stats = rounded(grid, x, window=(float(x.min()), float(x.max())))
    assert stats.errors == compared((x, fake_quantize(x, grid)))
    assert sum(stats.value_histogram().float_counts) == x.numel()


@pytest.mark.parametrize("shape", [(300, 3, 20, 20), (2, 70_000), (90_000,), (7, 5)])
@pytest.mark.parametrize("clip", [0.5, 1.0])
def test_large_batches_count_like_their_samples_one_by_one(shape, clip, generator):
    x = torch.randn(shape, generator=generator)
    grid = choose_qparams(clip * x.min(), clip * x.max(), TensorScheme(symmetric=False))
    whole = rounded(grid, x)
    single = rounded(grid, *(x.split(1) if x.dim() > 1 else [x]))
    assert everything(whole)[1:] == everything(single)[1:]
    assert whole.errors.samples == (len(x) if x.dim() > 1 else 1)
    for name, value in encode(single.metrics()).items():
        assert getattr(whole.metrics(), name) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("clip", [0.4, 1.0])
def test_everything_equals_numpy(symmetric, bits, clip, generator):
    x = torch.randn(40, 30, generator=generator) + 0.3
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    grid = choose_qparams(clip * x.min(), clip * x.max(), scheme)
    stats = rounded(grid, x[:7], x[7:])

    values, scale, zero = x.double().numpy(), grid.scale.double().numpy(), int(grid.zero_point)
    raw = np.rint((x / grid.scale).numpy().astype(np.float64)) + zero
    codes = np.clip(raw, grid.qmin, grid.qmax)
    error = (codes - zero) * scale - values
    clipped = raw != codes
    found = stats.metrics()
    assert found.count == x.numel()
    assert found.mse == pytest.approx((error**2).mean(), rel=1e-5)
    assert found.clipping_mse == pytest.approx((error**2 * clipped).mean(), rel=1e-5)
    assert found.rounding_mse == pytest.approx((error**2 * ~clipped).mean(), rel=1e-5)
    assert found.rounding_mse + found.clipping_mse == pytest.approx(found.mse, rel=1e-12)
    assert found.clipped_fraction == clipped.mean()
    assert found.rmse_over_scale == pytest.approx(np.sqrt((error**2).mean()) / scale, rel=1e-5)

    assert codes.min() >= grid.qmin
    expected_codes = np.bincount((codes - grid.qmin).astype(int).ravel(), minlength=2**bits)
    usage = stats.code_usage()
    assert list(usage.counts) == expected_codes[: len(usage.counts)].tolist()
    assert usage.codes_used == len(np.unique(codes))

    lsb = (error / scale).ravel()
    errors = stats.error_histogram()
    expected_lsb, _ = np.histogram(lsb, len(errors.counts), (errors.lo, errors.hi))
    # float32 moves a few errors over an edge
    assert np.abs(np.array(errors.counts) - expected_lsb).sum() <= 6
    assert (errors.below, errors.above) == ((lsb < -1).sum(), (lsb > 1).sum())

    values_found = stats.value_histogram()
    edges = (values_found.lo, values_found.hi)
    bins = len(values_found.float_counts)
    expected_float, _ = np.histogram(values, bins, edges)
    expected_stand_ins, _ = np.histogram((codes - zero) * scale, bins, edges)
    assert np.abs(np.array(values_found.float_counts) - expected_float).sum() <= 6
    assert list(values_found.quantized_counts) == expected_stand_ins.tolist()
    assert values_found.float_below == (values < edges[0]).sum()
    assert values_found.float_above == (values > edges[1]).sum()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_value_bin_is_whole_codes_or_an_odd_part_of_one(bits, symmetric):
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    grid = choose_qparams(torch.tensor(-1.0), torch.tensor(1.3), scheme)
    codes = torch.arange(grid.qmin, grid.qmax + 1)
    on_grid = ((codes - grid.zero_point) * grid.scale).repeat_interleave(10)
    found = rounded(grid, on_grid[None]).value_histogram()
    assert found.float_counts == found.quantized_counts
    step = (found.hi - found.lo) / len(found.float_counts)
    ratio = step / grid.scale.item()
    assert ratio == pytest.approx(round(ratio)) or round(1 / ratio) % 2 == 1
    assert 60 <= len(found.float_counts) <= 255
    filled = {n for n in found.quantized_counts[:-1] if n}
    assert len(filled) == 1, "no bin catches more codes than another"


@given(tensors((6, 4), limit=1e20), schemes("per_tensor"))
def test_merging_and_any_cut_equals_the_whole(x, scheme):
    grid = choose_qparams(0.5 * x.min(), 0.5 * x.max(), scheme)
    whole = rounded(grid, x)
    merged, other = rounded(grid, x[:1], x[1:3]), rounded(grid, x[3:])
    merged.merge(other)
    assert everything(merged)[1:] == everything(whole)[1:]
    for name in ("mse", "nmse", "rmse_over_scale", "rounding_mse", "clipping_mse"):
        expected = getattr(whole.metrics(), name)
        # Rounding is what clipping leaves of the whole, so it is as exact as the whole.
        tolerance = 1e-9 * whole.metrics().mse if name.endswith("ing_mse") else 1e-280
        assert getattr(merged.metrics(), name) == pytest.approx(expected, rel=1e-9, abs=tolerance)
    assert merged.metrics().clipped_fraction == whole.metrics().clipped_fraction


@given(tensors(limit=1e20), schemes("per_tensor"))
def test_no_value_is_lost_in_a_histogram(x, scheme):
    grid = choose_qparams(0.3 * x.min(), 0.9 * x.max(), scheme) if x.max() > 0 else UNIT
    stats = rounded(grid, x)
    errors, values = stats.error_histogram(), stats.value_histogram()
    assert sum(stats.code_usage().counts) == x.numel()
    assert errors.below + sum(errors.counts) + errors.above == x.numel()
    assert values.float_below + sum(values.float_counts) + values.float_above == x.numel()
    assert sum(values.quantized_counts) == x.numel()
    assert values.quantized_below == values.quantized_above == 0
    assert (
        list(stats.code_usage().counts)
        == np.bincount(
            (quantize(x, grid).int() - grid.qmin).reshape(-1), minlength=grid.qmax - grid.qmin + 1
        ).tolist()
    )


def test_ideal_rounding_is_uniform_over_one_lsb(generator):
    x = 100 * torch.rand(200, 1000, generator=generator) - 50
    grid = QParams(torch.tensor(0.5), torch.tensor(0), -127, 127)
    stats = rounded(grid, x)
    assert stats.metrics().rmse_over_scale == pytest.approx(1 / math.sqrt(12), rel=0.01)
    counts = np.array(stats.error_histogram().counts)
    middle = counts[16:48]
    assert counts.sum() == middle.sum() == x.numel()
    assert middle.min() > 0.9 * middle.mean()


def test_ties_stay_inside_half_a_step():
    errors = rounded(UNIT, torch.tensor([[0.5, -0.5, 1.5, -1.5]])).error_histogram()
    assert sum(errors.counts[16:48]) == 4


@pytest.mark.parametrize("axis", [0, 1])
def test_a_grid_for_each_channel_equals_numpy(axis, generator):
    x = torch.randn(5, 6, 7, generator=generator) * torch.logspace(-2, 1, 6)[:, None]
    grid = choose_weight_qparams(x, TensorScheme(granularity="per_channel", bits=4), axis)
    window = (float(x.min()), float(x.max()))
    stats = rounded(grid, x, window=window)
    shape = [1, 1, 1]
    shape[axis] = -1
    scale = grid.scale.double().numpy().reshape(shape)
    error = np.rint((x / grid.scale.view(shape)).numpy()) * scale - x.double().numpy()
    found = stats.metrics()
    assert found.mse == pytest.approx((error**2).mean(), rel=1e-5)
    assert found.rmse_over_scale == pytest.approx(np.sqrt(((error / scale) ** 2).mean()), rel=1e-5)
    values = stats.value_histogram()
    assert (values.lo, values.hi) == window
    assert sum(values.float_counts) == sum(values.quantized_counts) + values.quantized_above + (
        values.quantized_below
    )


def test_a_constant_weight_fills_one_bin():
    x = torch.full((2, 3), 5.0)
    grid = choose_weight_qparams(x, TensorScheme(granularity="per_channel"), 0)
    values = rounded(grid, x, window=(5.0, 5.0)).value_histogram()
    assert max(values.float_counts) == 6
    assert sum(values.float_counts) == 6


def test_nothing_seen_gives_empty_figures():
    stats = GridStats(UNIT)
    assert stats.metrics().rmse_over_scale == 0.0
    assert sum(stats.code_usage().counts) == 0
