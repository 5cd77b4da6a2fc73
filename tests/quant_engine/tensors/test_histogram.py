from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from quant_engine.errors import DataError, NotCalibratedError
from quant_engine.tensors.histogram import BinnedValues, Histogram, bin_channels, stack_binned
from tests.quant_engine.strategies import streams, tensors

MAX = torch.finfo(torch.float32).max
bin_counts = st.sampled_from([2, 3, 8, 100, 4096])


def seen(*pieces: torch.Tensor, bins: int = 4096) -> Histogram:
    histogram = Histogram(bins)
    for piece in pieces:
        histogram.update(piece)
    return histogram


def state(histogram: Histogram) -> tuple[object, ...]:
    return (
        histogram.count,
        histogram.lo,
        histogram.hi,
        histogram.width,
        histogram.start,
        histogram.counts.tolist(),
    )


# --- golden values --------------------------------------------------------------------------------


def test_bins_by_hand():
    histogram = seen(torch.tensor([0.0, 0.9, 1.0, 3.5, 3.9, -1.0]), bins=8)
    # From -1 to 3.9: width 1/2 would need 10 bins, so it is 1.
    assert (histogram.width, histogram.start) == (1.0, -1.0)
    assert histogram.counts.tolist() == [1, 2, 1, 0, 2, 0, 0, 0]
    assert (histogram.lo, histogram.hi, histogram.count) == (-1.0, pytest.approx(3.9), 6)


def test_widening_joins_whole_bins_by_hand():
    histogram = seen(torch.tensor([0.0, 1.0, 2.0, 3.0]), bins=8)
    assert (histogram.width, histogram.counts.tolist()) == (0.5, [1, 0, 1, 0, 1, 0, 1, 0])
    histogram.update(torch.tensor([15.0]))
    assert (histogram.width, histogram.counts.tolist()) == (2.0, [2, 2, 0, 0, 0, 0, 0, 1])


# --- properties -----------------------------------------------------------------------------------


@given(streams(limit=MAX), st.randoms(use_true_random=False), bin_counts)
@example([torch.tensor([-1e-45]), torch.tensor([1e30])], None, 8)
@example([torch.tensor([-MAX]), torch.tensor([MAX])], None, 2)
def test_any_order_and_any_cut_gives_the_same_counts(pieces, random, bins):
    whole = seen(torch.cat(pieces), bins=bins)
    shuffled = list(pieces)
    if random is not None:
        random.shuffle(shuffled)
    assert state(seen(*shuffled, bins=bins)) == state(whole)
    assert state(seen(*(v for piece in shuffled for v in piece), bins=bins)) == state(whole)


@given(streams(limit=MAX), streams(limit=MAX), bin_counts)
def test_merging_equals_having_seen_both(first, second, bins):
    merged, other = seen(*first, bins=bins), seen(*second, bins=bins)
    before = state(other)
    merged.merge(other)
    assert state(merged) == state(seen(*first, *second, bins=bins))
    assert state(other) == before


@given(streams(limit=MAX), bin_counts)
def test_counts_equal_numpys_on_the_same_edges(pieces, bins):
    histogram = seen(*pieces, bins=bins)
    values = torch.cat(pieces).double().numpy()
    edges = histogram.start + np.arange(bins + 1) * histogram.width
    expected, _ = np.histogram(values, edges)
    assert histogram.counts.tolist() == expected.tolist()
    assert histogram.counts.sum() == histogram.count == len(values)


@given(streams(limit=MAX), bin_counts)
def test_the_true_extremes_are_kept_and_bins_are_no_wider_than_needed(pieces, bins):
    histogram = seen(*pieces, bins=bins)
    values = torch.cat(pieces)
    assert (histogram.lo, histogram.hi) == (values.min().item(), values.max().item())
    assert math.frexp(histogram.width)[0] == 0.5, "a power of two"
    span = histogram.hi - histogram.lo
    finest = max(2.0**-126, 2.0 ** (math.frexp(max(-histogram.lo, histogram.hi))[1] - 24))
    assert span < bins * histogram.width
    assert histogram.width <= max(4 * span / bins, finest)


@given(streams(limit=MAX), streams(limit=MAX))
def test_exact_zeros_are_known(first, second):
    histogram, other = seen(*first), seen(*second)
    assert histogram.zeros == int((torch.cat(first) == 0.0).sum())
    histogram.merge(other)
    assert histogram.zeros == int((torch.cat([*first, *second]) == 0.0).sum())


def test_long_tensors_are_counted_whole(generator):
    x = torch.randn(300, 999, generator=generator).relu()
    whole, rows = seen(x), seen(*x)
    assert state(whole) == state(rows)
    assert whole.zeros == rows.zeros == int((x == 0.0).sum())


@given(tensors(limit=MAX), bin_counts)
def test_centers_lie_inside_the_range_and_inside_their_bin(x, bins):
    binned = seen(x, bins=bins).binned()
    filled = binned.counts[0] > 0
    centers = binned.centers[0][filled]
    left = binned.start[0] + np.flatnonzero(filled) * binned.width[0]
    assert (centers >= binned.lo[0]).all()
    assert (centers <= binned.hi[0]).all()
    assert (centers >= left).all()
    assert (centers <= left + binned.width[0]).all()


@given(tensors(), st.integers(1, 50))
def test_coarsening_keeps_every_count(x, most):
    fine = seen(x, bins=64).binned()
    coarse = fine.coarsened(most)
    assert coarse.counts.shape[1] <= most
    assert coarse.counts.sum() == x.numel()
    group = round(float(coarse.width[0] / fine.width[0]))
    for number in range(coarse.counts.shape[1]):
        part = fine.counts[0, number * group : (number + 1) * group]
        assert coarse.counts[0, number] == part.sum()


@given(tensors((5, 7), limit=1e30))
def test_channels_are_counted_like_numpy_counts_each_row(x):
    values = x.double().numpy()
    binned = bin_channels(values, 16)
    for row, counts in zip(values, binned.counts, strict=True):
        assert counts.sum() == row.size
        if row.min() < row.max():
            # Rounding may move a value that lies on an edge to the neighbouring bin.
            expected, edges = np.histogram(row, 16, (row.min(), row.max()))
            is_edge = np.isclose(row[:, None], edges, rtol=1e-12, atol=0.0).any()
            assert is_edge or counts.tolist() == expected.tolist()
    assert binned.lo.tolist() == values.min(axis=1).tolist()
    assert binned.hi.tolist() == values.max(axis=1).tolist()


def test_stacked_channels_keep_their_own_bins():
    parts = [seen(torch.tensor(v), bins=8).binned() for v in ([0.0, 7.0], [0.0, 70.0], [1.0])]
    stacked = stack_binned(parts)
    assert isinstance(stacked, BinnedValues)
    assert stacked.counts.shape == stacked.centers.shape == (3, 8)
    for row, part in enumerate(parts):
        assert stacked.width[row] == part.width[0]
        assert stacked.counts[row].tolist() == part.counts[0].tolist()


# --- forms of data --------------------------------------------------------------------------------


def test_any_shape_layout_and_dtype_counts_all_values(generator):
    x = torch.randn(4, 3, 5, 6, generator=generator)
    plain = state(seen(x.flatten()))
    assert state(seen(x)) == plain
    assert state(seen(x.to(memory_format=torch.channels_last))) == plain
    assert state(seen(x.transpose(0, 3))) == plain
    assert state(seen(x.double())) == plain
    half = x.half()
    assert state(seen(half)) == state(seen(half.float()))


def test_the_values_are_left_alone():
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    seen(x)
    assert x.tolist() == [-1.0, 2.0]


def test_an_empty_tensor_counts_nothing():
    histogram = seen(torch.empty(0), torch.tensor([1.0]), torch.empty(3, 0))
    assert histogram.count == 1


def test_merging_with_an_empty_histogram_changes_nothing():
    histogram, empty = seen(torch.tensor([1.0, 2.0])), Histogram()
    before = state(histogram)
    histogram.merge(Histogram())
    assert state(histogram) == before
    empty.merge(histogram)
    assert state(empty) == before


def test_counts_are_a_copy():
    histogram = seen(torch.tensor([1.0]))
    histogram.counts[:] = 0
    assert histogram.counts.sum() == 1


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_inf_are_refused_and_nothing_is_counted(bad):
    histogram = seen(torch.tensor([1.0, 2.0]))
    before = state(histogram)
    with pytest.raises(DataError, match="NaN or Inf"):
        histogram.update(torch.tensor([5.0, bad, 0.0]))
    assert state(histogram) == before


def test_nothing_seen_is_an_error_that_says_what_to_do():
    with pytest.raises(NotCalibratedError, match=r"Call update\(\)"):
        Histogram().binned()


def test_histograms_of_different_size_do_not_merge():
    with pytest.raises(DataError, match="8 and 16 bins"):
        Histogram(8).merge(Histogram(16))


def test_too_few_bins_are_refused():
    with pytest.raises(DataError, match="bins is 1"):
        Histogram(1)


def test_exact_zeros_are_counted_apart_and_merge(generator: torch.Generator) -> None:
    x = torch.randn(1000, generator=generator) - 2
    x[::4] = 0.0
    whole, first, second = Histogram(64), Histogram(64), Histogram(64)
    whole.update(x)
    first.update(x[:300])
    second.update(x[300:] * 1.0)
    first.merge(second)
    assert whole.zeros == first.zeros == 250
    for binned in (
        whole.binned(),
        whole.binned().coarsened(8),
        bin_channels(x[None].double().numpy(), 32),
    ):
        assert binned.nonzero_counts.sum() == 750
        assert (binned.nonzero_counts >= 0).all()
        [[_, position]] = np.argwhere(binned.counts != binned.nonzero_counts)
        left = binned.start[0] + position * binned.width[0]
        assert left <= 1e-12
        assert left + binned.width[0] >= -1e-12
