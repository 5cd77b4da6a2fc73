from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector
from scipy.special import rel_entr

from quant_engine.errors import DataError, NotCalibratedError, SchemeError
from quant_engine.scheme import OBSERVERS, WEIGHT_OBSERVERS, TensorScheme
from quant_engine.tensors import observers
from quant_engine.tensors.affine import choose_qparams, fake_quantize
from quant_engine.tensors.histogram import Histogram, bin_channels
from quant_engine.tensors.observers import (
    choose_input_qparams,
    choose_range,
    choose_weight_qparams,
    expected_mse,
    get_observer,
    register_observer,
    weight_rows,
)
from tests.quant_engine.strategies import schemes, tensors

SYMMETRIC = TensorScheme()
ASYMMETRIC = TensorScheme(symmetric=False)
each_observer = pytest.mark.parametrize("observer", OBSERVERS)
each_symmetry = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])


def histogram_of(x: torch.Tensor) -> Histogram:
    histogram = Histogram()
    histogram.update(x)
    return histogram


def chosen(x: torch.Tensor, scheme: TensorScheme) -> tuple[float, float]:
    lo, hi = choose_range(histogram_of(x).binned(), scheme)
    return float(lo[0]), float(hi[0])


def sample(kind: str, n: int = 20_000) -> torch.Tensor:
    """Values as they occur in networks."""
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(n, generator=generator)
    uniform = torch.rand(n, generator=generator)
    match kind:
        case "normal":
            return normal
        case "relu":
            return normal.relu()
        case "shifted":
            return normal + 3.0
        case "uniform":
            return 2.0 * uniform - 1.0
        case "laplace":
            return (uniform - 0.5).sign() * -torch.log1p(-2.0 * (uniform - 0.5).abs() + 1e-6)
        case "outliers":
            return torch.cat([normal, torch.tensor([40.0, -35.0, 38.0])])
        case "negative":
            return -normal.abs() - 0.1
    raise AssertionError(kind)


KINDS = ("normal", "relu", "shifted", "uniform", "laplace", "outliers", "negative")
each_kind = pytest.mark.parametrize("kind", KINDS)


def real_mse(x: torch.Tensor, lo: float, hi: float, scheme: TensorScheme) -> float:
    grid = choose_qparams(torch.tensor(lo).double(), torch.tensor(hi).double(), scheme)
    return float((fake_quantize(x, grid) - x).double().square().mean())


# --- every rule -----------------------------------------------------------------------------------


@given(tensors(limit=1e37), schemes())
def test_no_rule_leaves_the_values_seen_or_gives_up_on_them(x, scheme):
    lo, hi = chosen(x, scheme)
    smallest, largest = float(x.min()), float(x.max())
    if scheme.symmetric:
        edge = max(-smallest, largest)
        assert -edge <= lo == -hi
        assert hi <= edge
    else:
        assert min(smallest, 0.0) <= lo <= hi <= max(largest, 0.0)
    assert (hi > lo) or (x == x.reshape(-1)[0]).all() or scheme.observer == "percentile"
    grid = choose_input_qparams(histogram_of(x), scheme)
    assert torch.isfinite(fake_quantize(x, grid)).all()


@each_observer
@each_symmetry
@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-30, 1e30])
def test_a_constant_comes_back_under_every_rule(observer, symmetric, value):
    x = torch.full((100,), value)
    grid = choose_input_qparams(
        histogram_of(x), TensorScheme(symmetric=symmetric, observer=observer)
    )
    torch.testing.assert_close(fake_quantize(x, grid), x, rtol=1e-6, atol=0.0)


@each_observer
@each_symmetry
@each_kind
def test_scaling_the_values_scales_the_range(observer, symmetric, kind):
    scheme = TensorScheme(symmetric=symmetric, observer=observer)
    x = sample(kind)
    lo, hi = chosen(x, scheme)
    assert chosen(x * 2.0**20, scheme) == (lo * 2.0**20, hi * 2.0**20)


@each_observer
@each_symmetry
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "outliers"])
def test_eight_bits_on_plain_values_lose_little(observer, symmetric, kind):
    scheme = TensorScheme(symmetric=symmetric, observer=observer)
    x = sample(kind)
    grid = choose_input_qparams(histogram_of(x), scheme)
    noise = (fake_quantize(x, grid) - x).double().square().sum()
    sqnr_db = 10.0 * float(torch.log10(x.double().square().sum() / noise))
    assert sqnr_db > 20.0


@pytest.mark.parametrize("observer", [*OBSERVERS, *WEIGHT_OBSERVERS])
def test_every_rule_of_the_scheme_is_known_by_name(observer):
    assert callable(get_observer(observer))


def test_an_unknown_rule_is_refused_with_the_names_there_are():
    with pytest.raises(SchemeError, match="Did you mean 'entropy'"):
        get_observer("entrop")


def test_a_rule_can_be_added(monkeypatch):
    monkeypatch.setattr(observers, "_OBSERVERS", dict(observers._OBSERVERS))

    @register_observer("minmax")
    def nothing(binned, scheme):
        return binned.lo * 0.5, binned.hi * 0.5

    assert get_observer("minmax") is nothing
    assert chosen(torch.tensor([-2.0, 4.0]), ASYMMETRIC) == (-1.0, 2.0)


# --- minmax ---------------------------------------------------------------------------------------


@given(tensors(limit=1e37), schemes())
def test_minmax_is_the_smallest_and_largest_value(x, scheme):
    lo, hi = chosen(x, replace(scheme, observer="minmax"))
    smallest, largest = float(x.min()), float(x.max())
    edge = max(abs(smallest), abs(largest))
    assert (lo, hi) == ((-edge, edge) if scheme.symmetric else (smallest, largest))


# --- percentile: numpy's quantiles ----------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9, 100.0])
def test_percentile_is_numpys_within_a_bin(kind, percentile):
    x = sample(kind)
    values, width = x.double().numpy(), histogram_of(x).width
    scheme = TensorScheme(observer="percentile", percentile=percentile)
    _, edge = chosen(x, scheme)
    expected = np.percentile(np.abs(values), percentile, method="inverted_cdf")
    assert edge == pytest.approx(expected, abs=width)

    lo, hi = chosen(x, replace(scheme, symmetric=False))
    tail = (100.0 - percentile) / 2
    expected_lo, expected_hi = np.percentile(values, [tail, 100.0 - tail], method="inverted_cdf")
    if kind != "relu" or lo > 0:  # half of the values are equal there: no bin edge in between
        assert lo == pytest.approx(expected_lo, abs=width)
    assert hi == pytest.approx(expected_hi, abs=width)


@given(tensors(limit=1e30), st.floats(50.0, 100.0, exclude_min=True))
def test_percentile_keeps_the_share_it_promises(x, percentile):
    scheme = TensorScheme(observer="percentile", percentile=percentile)
    _, edge = chosen(x, scheme)
    magnitude = x.abs().double()
    width = histogram_of(x).width
    tolerance = 1e-9 * x.numel()
    kept = int((magnitude <= edge + width).sum())
    assert kept >= percentile / 100.0 * x.numel() - tolerance
    inside = int((magnitude < edge - width).sum())
    assert inside <= percentile / 100.0 * x.numel() + tolerance


# --- mse: brute force -----------------------------------------------------------------------------


def best_mse(x: torch.Tensor, lo: np.ndarray, hi: np.ndarray, scheme: TensorScheme) -> float:
    """The smallest error over many ranges, in numpy."""
    scale = (hi - lo) / (scheme.qmax - scheme.qmin)
    zero_point = np.zeros_like(scale)
    if not scheme.symmetric:
        zero_point = np.clip(np.rint(scheme.qmin - lo / scale), scheme.qmin, scheme.qmax)
    values, scale, zero_point = x.double().numpy(), scale[:, None], zero_point[:, None]
    codes = np.clip(np.rint(values / scale) + zero_point, scheme.qmin, scheme.qmax)
    return float(np.square((codes - zero_point) * scale - values).mean(axis=1).min())


@each_kind
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_is_as_good_as_brute_force_symmetric(kind, bits):
    x = sample(kind, 4000)
    scheme = TensorScheme(bits=bits, observer="mse")
    edges = float(x.abs().max()) * np.linspace(0.005, 1.0, 200)
    assert real_mse(x, *chosen(x, scheme), scheme) <= 1.03 * best_mse(x, -edges, edges, scheme)


@each_kind
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_is_as_good_as_brute_force_asymmetric(kind, bits):
    x = sample(kind, 2000)
    scheme = TensorScheme(bits=bits, symmetric=False, observer="mse")
    factors = np.linspace(0.04, 1.0, 25)
    lo, hi = np.meshgrid(min(float(x.min()), 0.0) * factors, max(float(x.max()), 0.0) * factors)
    # The search goes end by end, so it may stop next to the best pair.
    best = best_mse(x, lo.ravel(), hi.ravel(), scheme)
    assert real_mse(x, *chosen(x, scheme), scheme) <= 1.05 * best


@each_kind
@each_symmetry
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("factor", [0.3, 0.7, 1.0])
def test_the_expected_mse_is_the_real_one(kind, symmetric, bits, factor):
    x = sample(kind)
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    lo, hi = factor * float(x.min()), factor * float(x.max())
    binned = histogram_of(x).binned()
    mse, clipped = expected_mse(binned, np.array([lo]), np.array([hi]), scheme)
    # Exact zeros count as values spread over the bin that begins at 0.
    tolerance = 0.04 if kind == "relu" else 0.02
    assert mse[0] == pytest.approx(real_mse(x, lo, hi, scheme), rel=tolerance)
    grid = choose_qparams(torch.tensor(lo), torch.tensor(hi), scheme)
    lower, upper = grid.lower() - grid.scale / 2, grid.upper() + grid.scale / 2
    expected = float(((x < lower) | (x > upper)).double().mean())
    at_edges = sum(
        float(((x - edge).abs() <= binned.width[0]).double().mean()) for edge in (lower, upper)
    )
    assert clipped[0] == pytest.approx(expected, abs=at_edges + 1e-12)


# --- entropy: a slow, independent reading of the rule ---------------------------------------------


def slow_information_loss(counts, centers, zero_bin, scale, scheme):
    """Loop over bins and codes; the divergence by scipy."""
    counts = counts.copy()
    if zero_bin is not None:
        neighbours = [counts[i] for i in (zero_bin - 1, zero_bin + 1) if 0 <= i < len(counts)]
        if max(neighbours) > 0:
            counts[zero_bin] = min(counts[zero_bin], max(neighbours))
    codes = np.rint(centers / scale)
    inside = [i for i, code in enumerate(codes) if scheme.qmin <= code <= scheme.qmax]
    p = np.zeros_like(counts)
    for i in inside:
        p[i] = counts[i]
    p[inside[0]] += counts[: inside[0]].sum()
    p[inside[-1]] += counts[inside[-1] + 1 :].sum()
    q = np.zeros_like(counts)
    for code in {codes[i] for i in inside}:
        members = [i for i in inside if codes[i] == code and counts[i] > 0]
        for i in members:
            q[i] = sum(counts[j] for j in members) / len(members)
    support = p > 0
    p, q = p / p.sum(), q / q.sum()
    q = (1 - 1e-4) * q + 1e-4 * support / support.sum()
    return rel_entr(p[support], q[support]).sum()


@pytest.mark.parametrize("kind", ["normal", "laplace", "outliers", "relu"])
@pytest.mark.parametrize("bits", [4, 8])
def test_entropy_finds_the_smallest_divergence(kind, bits):
    x = sample(kind)
    scheme = TensorScheme(bits=bits, observer="entropy")
    binned = histogram_of(x).binned().coarsened(2048)
    counts, centers = binned.counts[0], binned.centers[0]
    zero_bin = int(np.floor(-binned.start[0] / binned.width[0]))
    _, edge = chosen(x, scheme)

    def loss(clip):
        return slow_information_loss(
            counts, centers, zero_bin, np.float64(np.float32(clip / scheme.qmax)), scheme
        )

    largest = float(x.abs().max())
    finest = binned.width[0] * (scheme.qmax - scheme.qmin) / 2
    candidates = [f * largest for f in np.linspace(0.05, 1.0, 20) if f * largest >= finest]
    assert loss(edge) <= min(loss(clip) for clip in candidates) * (1 + 1e-6) + 1e-12


def migacz_edge(x: np.ndarray, bins: int = 2048, levels: int = 128) -> float:
    """Search the edge as the talk does: every number of bins of |x|, merged into 128 levels."""
    largest = np.abs(x).max()
    counts = np.histogram(np.abs(x[x != 0]), bins, range=(0, largest))[0].astype(float)
    losses = {}
    for kept in range(levels, bins + 1):
        inside = counts[:kept]
        p = inside.copy()
        p[-1] += counts[kept:].sum()
        level = np.arange(kept) * levels // kept
        merged = np.bincount(level, inside, levels)
        holding = np.maximum(np.bincount(level, inside > 0, levels), 1)
        q = np.where(inside > 0, (merged / holding)[level], 0.0)
        p, q = p / p.sum(), q / q.sum()
        missing = (q == 0) & (p > 0)
        q[missing] = 1e-4
        q[(q > 0) & ~missing] -= 1e-4 * missing.sum() / np.count_nonzero((q > 0) & ~missing)
        losses[kept] = rel_entr(p, q).sum() if (q[p > 0] > 0).all() else np.inf
    return (min(losses, key=losses.__getitem__) + 0.5) * largest / bins


def onnxruntime_edge(x: np.ndarray) -> float:
    largest = np.float64(np.abs(x).max())
    counts, edges = np.histogram(x, 1025, range=(-largest, largest))
    found = HistogramCollector.get_entropy_threshold(
        None, (counts, edges, x.min(), x.max(), largest), 128
    )
    return max(-found[0], found[1])


DRAWS = {
    "normal": lambda random: random.normal(size=50_000),
    "laplace": lambda random: random.laplace(size=50_000),
    "heavy tails": lambda random: random.standard_t(3, size=50_000),
    "loud channel": lambda random: random.normal(
        scale=np.repeat([1.0, 20.0], (50_000, 800)), size=50_800
    ),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_entropy_clips_about_as_much_as_tensorrt_and_onnx_runtime(kind):
    values = DRAWS[kind](np.random.default_rng(0)).astype(np.float32)

    edge = chosen(torch.from_numpy(values), TensorScheme(observer="entropy"))[1]

    for other in (migacz_edge(values), onnxruntime_edge(values)):
        assert 0.8 <= edge / other <= 1.6


def test_entropy_and_mse_leave_outliers_out_and_minmax_does_not():
    x = sample("outliers")
    assert chosen(x, SYMMETRIC)[1] == 40.0
    for observer in ("entropy", "percentile"):
        assert chosen(x, replace(SYMMETRIC, observer=observer))[1] < 15.0
    low = TensorScheme(bits=4, observer="mse")
    assert chosen(x, low)[1] < 5.0


def test_a_spike_of_zeros_does_not_narrow_the_entropy_range():
    x = sample("normal").abs()
    with_zeros = torch.cat([x, torch.zeros(20 * x.numel())])
    for scheme in (SYMMETRIC, ASYMMETRIC):
        entropy = replace(scheme, observer="entropy")
        assert chosen(with_zeros, entropy)[1] == pytest.approx(chosen(x, entropy)[1], rel=0.2)


# --- weights --------------------------------------------------------------------------------------


def test_weight_grids_by_hand():
    weight = torch.tensor([[-1.27, 0.5], [0.0, 12.7]])
    per_tensor = choose_weight_qparams(weight, SYMMETRIC, channel_axis=0)
    assert (per_tensor.axis, per_tensor.scale.shape) == (None, ())
    torch.testing.assert_close(per_tensor.scale, torch.tensor(0.1))
    scheme = TensorScheme(granularity="per_channel")
    rows = choose_weight_qparams(weight, scheme, channel_axis=0)
    torch.testing.assert_close(rows.scale, torch.tensor([0.01, 0.1]))
    columns = choose_weight_qparams(weight, scheme, channel_axis=1)
    torch.testing.assert_close(columns.scale, torch.tensor([0.01, 0.1]))
    assert columns.axis == 1


@each_observer
@each_symmetry
@pytest.mark.parametrize("axis", [0, 1])
def test_each_channel_gets_the_grid_it_would_get_alone(observer, symmetric, axis, generator):
    weight = torch.randn(5, 6, 3, 3, generator=generator) * torch.logspace(-3, 2, 6).view(-1, 1, 1)
    scheme = TensorScheme(symmetric=symmetric, granularity="per_channel", observer=observer, bits=4)
    together = choose_weight_qparams(weight, scheme, axis)
    single = replace(scheme, granularity="per_tensor")
    for channel in range(weight.shape[axis]):
        alone = choose_weight_qparams(weight.select(axis, channel), single, 0)
        torch.testing.assert_close(together.scale[channel], alone.scale)
        assert together.zero_point[channel] == alone.zero_point


@each_observer
def test_weights_in_half_precision(observer, generator):
    weight = torch.randn(4, 9, generator=generator).bfloat16()
    scheme = TensorScheme(granularity="per_channel", observer=observer)
    ours = choose_weight_qparams(weight, scheme, 0)
    torch.testing.assert_close(ours.scale, choose_weight_qparams(weight.float(), scheme, 0).scale)


def test_rows_of_a_weight():
    weight = torch.arange(12.0).view(2, 3, 2)
    assert weight_rows(weight, None).shape == (1, 12)
    assert weight_rows(weight, 1).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


@each_observer
def test_one_channel_and_one_value_a_channel(observer):
    scheme = TensorScheme(granularity="per_channel", observer=observer)
    weight = torch.tensor([[0.5], [-2.0], [0.0]])
    grid = choose_weight_qparams(weight, scheme, 0)
    torch.testing.assert_close(fake_quantize(weight, grid), weight, rtol=1e-3, atol=0.0)
    whole = choose_weight_qparams(weight.T, scheme, 0)
    assert whole.scale.shape == (1,)


def test_empty_and_broken_weights_are_refused():
    with pytest.raises(DataError, match=r"shape \(0, 3\) and no values"):
        choose_weight_qparams(torch.empty(0, 3), SYMMETRIC, 0)
    with pytest.raises(DataError, match="NaN or Inf"):
        choose_weight_qparams(torch.tensor([1.0, float("nan")]), SYMMETRIC, 0)


def test_an_input_never_seen_has_no_grid():
    with pytest.raises(NotCalibratedError):
        choose_input_qparams(Histogram(), SYMMETRIC)


def test_many_channels_at_once_equal_each_alone(rng):
    values = rng.standard_normal((4, 3000)) * np.array([[1.0], [10.0], [0.1], [5.0]])
    values[1] = np.abs(values[1])
    together = bin_channels(values, 1024)
    for observer in OBSERVERS:
        for symmetric in (True, False):
            scheme = TensorScheme(bits=6, symmetric=symmetric, observer=observer)
            lo, hi = choose_range(together, scheme)
            for row in range(4):
                alone = choose_range(bin_channels(values[row : row + 1], 1024), scheme)
                assert (lo[row], hi[row]) == pytest.approx((alone[0][0], alone[1][0]), rel=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_estimated_error_of_a_relu_output_is_the_true_one(
    bits: int, symmetric: bool, generator: torch.Generator
) -> None:
    x = torch.randn(20_000, generator=generator).relu()
    x[:15_000] = 0.0
    histogram = Histogram()
    histogram.update(x)
    binned = histogram.binned()
    for observer in OBSERVERS:
        scheme = TensorScheme(bits=bits, symmetric=symmetric, observer=observer)
        lo, hi = choose_range(binned, scheme)
        estimate = expected_mse(binned, lo, hi, scheme)[0][0]
        stand_in = fake_quantize(x, choose_input_qparams(histogram, scheme))
        true = (stand_in.double() - x.double()).square().mean().item()
        assert estimate == pytest.approx(true, rel=0.02)
