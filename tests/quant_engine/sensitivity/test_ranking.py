"""Degradations, their intervals, and which neighbours are statistically tied."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_engine.errors import DataError, SchemeError
from quant_engine.judging.describe import check_metric
from quant_engine.judging.judged import JudgedOutput
from quant_engine.metrics.bootstrap import RESAMPLES, Resampling, percentile_interval
from quant_engine.metrics.catalogue import METRICS
from quant_engine.metrics.counts import SampleCounts
from quant_engine.report import Ranking
from quant_engine.sensitivity.ranking import MIN_DIFFERING, Degradations, Scale
from quant_engine.tensors.histogram import FloatArray

NAMES = ("kl_divergence", "nmse", "sqnr_db", "top1_agreement", "accuracy_drop")


def outcome(values: FloatArray) -> tuple[SampleCounts]:
    one = np.ones(len(values))
    counts = {
        "divergence": values,
        "positions": one,
        "agreeing": 1.0 - values,
        "correct": 1.0 - values,
        "correct_float": one,
        "labelled": one,
        "noise": values,
        "signal": 4.0 * one,
    }
    return (SampleCounts(counts),)


def degradations(rows: FloatArray, metric: str = "kl_divergence", seed: int = 0) -> Degradations:
    output = JudgedOutput("the output", metric=metric)
    return Degradations([output], [outcome(row) for row in rows], seed)


def scale_of(rows: FloatArray, metric: str = "kl_divergence") -> Scale:
    return degradations(rows, metric).scale(0)


def rank(rows: FloatArray, names: str, *, is_left_out: bool = False, seed: int = 0) -> Ranking:
    found = degradations(rows, seed=seed)
    places = range(len(rows))
    return found.rank("option", names, places, found.scale(0), is_left_out=is_left_out)


def is_tied(rows: FloatArray, seed: int = 0) -> bool:
    (comparison,) = rank(rows, "ab", seed=seed).comparisons
    return comparison.is_tied


def test_each_metric_by_hand() -> None:
    rows = np.array([[0.0, 0.0], [0.5, 0.1]])
    values = {name: scale_of(rows, name).values.tolist() for name in NAMES}

    assert values["kl_divergence"] == pytest.approx([0.0, 0.3])
    assert values["nmse"] == pytest.approx([0.0, 0.6 / 8.0])
    assert values["sqnr_db"] == pytest.approx([math.inf, -10 * math.log10(0.6 / 8.0)])
    assert values["top1_agreement"] == pytest.approx([1.0, 0.7])
    assert values["accuracy_drop"] == pytest.approx([0.0, 0.3])


@pytest.mark.parametrize("metric", NAMES)
def test_intervals_hold_the_value_and_grow_with_the_spread(
    metric: str, rng: np.random.Generator
) -> None:
    narrow, wide = 0.5 + 0.01 * rng.random(100), rng.random(100)
    found = scale_of(np.stack([narrow, wide]), metric)

    widths = []
    for variant, value in enumerate(found.values):
        lower, upper = found.interval(variant)
        assert lower <= value <= upper
        widths.append(upper - lower)
    assert widths[0] < widths[1] / 10


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(
    rng: np.random.Generator,
) -> None:
    samples = rng.normal(3.0, 2.0, 400)
    lower, upper = percentile_interval(Resampling(400).totals(samples) / 400)
    error = samples.std() / math.sqrt(400)

    assert lower == pytest.approx(samples.mean() - 1.96 * error, abs=0.2 * error)
    assert upper == pytest.approx(samples.mean() + 1.96 * error, abs=0.2 * error)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_rows_share_their_draws_whatever_stands_beside_them(seed: int, samples: int) -> None:
    rows = np.random.default_rng(seed).random((samples, 3))
    together = Resampling(samples, seed=seed).totals(rows)

    assert together.shape == (RESAMPLES, 3)
    for column in range(3):
        alone = Resampling(samples, seed=seed).totals(rows[:, column])
        np.testing.assert_allclose(together[:, column], alone, rtol=1e-12)


def test_a_shift_on_every_sample_is_seen_though_the_intervals_overlap(
    rng: np.random.Generator,
) -> None:
    hard = rng.lognormal(0.0, 2.0, 200)
    rows = np.stack([hard * 1.05, hard])
    scale = scale_of(rows)
    (low_above, _), (_, high_below) = scale.interval(0), scale.interval(1)

    assert low_above < high_below, "the marginal intervals overlap"
    assert not is_tied(rows)


def test_noise_that_both_share_half_of_is_not_a_difference(rng: np.random.Generator) -> None:
    shared = rng.random(200)
    rows = np.stack([shared + 0.3 * rng.random(200), shared + 0.3 * rng.random(200)])

    assert is_tied(rows)


def test_equal_layers_are_called_different_in_about_one_of_twenty_cases() -> None:
    generator = np.random.default_rng(1)
    claims = sum(
        not is_tied(generator.lognormal(0.0, 1.0, (2, 60)), seed=case) for case in range(400)
    )

    # 20 expected; the bootstrap of 60 skewed samples is a little too sure of itself
    assert 5 <= claims <= 40


@pytest.mark.parametrize("differing", range(MIN_DIFFERING + 3))
def test_few_differing_samples_prove_nothing(differing: int) -> None:
    rows = np.zeros((2, 300))
    rows[0, :differing] = 1.0

    assert is_tied(rows) == (differing < MIN_DIFFERING)


def test_one_sample_tells_nothing_apart() -> None:
    assert is_tied(np.array([[2.0], [1.0]]))


@pytest.mark.parametrize(("is_left_out", "order"), [(False, "cab"), (True, "bac")])
def test_the_ranking_begins_with_the_most_sensitive(is_left_out: bool, order: str) -> None:
    rows = np.repeat([[0.2], [0.1], [0.7]], 20, axis=1)
    ranking = rank(rows, "abc", is_left_out=is_left_out)

    assert ranking.option == "option"
    assert "".join(ranking.layers) == order
    assert [(c.above, c.below) for c in ranking.comparisons] == [
        (order[0], order[1]),
        (order[1], order[2]),
    ]
    gaps = [0.5, 0.1] if not is_left_out else [0.1, 0.5]
    assert [c.difference for c in ranking.comparisons] == pytest.approx(gaps)
    assert not any(c.is_tied for c in ranking.comparisons)


def test_equal_layers_keep_their_order_and_are_tied() -> None:
    ranking = rank(np.zeros((3, 10)), "abc")

    assert ranking.layers == ("a", "b", "c")
    assert all(c.is_tied and c.difference == 0.0 for c in ranking.comparisons)


def test_an_output_of_zeros() -> None:
    outcomes = [
        (SampleCounts({"noise": noise, "signal": np.zeros(8)}),)
        for noise in (np.zeros(8), np.ones(8), np.ones(8))
    ]
    found = Degradations([JudgedOutput("the output", metric="nmse")], outcomes, 0)

    assert found.scale(0).values.tolist() == [0.0, math.inf, math.inf]
    ranking = found.rank("", "abc", [0, 1, 2], found.scale(0), is_left_out=False)
    assert ranking.layers == ("b", "c", "a")
    assert ranking.comparisons[0].difference == 0.0
    assert ranking.comparisons[0].is_tied


def two_outputs(first: FloatArray, second: FloatArray) -> Degradations:
    """One variant a row: KL divergences of one output, errors of another of energy 4."""
    judged = [JudgedOutput("scores", metric="kl_divergence"), JudgedOutput("boxes", metric="nmse")]
    pairs = zip(first, second, strict=True)
    return Degradations(judged, [(*outcome(one), *outcome(other)) for one, other in pairs], 0)


def test_several_outputs_are_compared_by_shares_of_the_reference() -> None:
    # Rows: all layers, one that only the scores have, one that the boxes have most of.
    first = np.repeat([[0.2], [0.1], [0.02]], 30, axis=1)
    second = np.repeat([[0.4], [0.0], [0.36]], 30, axis=1)
    found = two_outputs(first, second)
    scale = found.scale(0)

    assert found.metric.name == "degradation_ratio"
    assert scale.values == pytest.approx([1.0, 0.5, 0.9])
    assert scale.decided_by == [0, 0, 1]
    effects = [output.effect(2, 0) for output in found.outputs]
    assert [effect.value for effect in effects] == pytest.approx([0.02, 0.09])
    assert [effect.ratio for effect in effects] == pytest.approx([0.1, 0.9])
    ranking = found.rank("", ["scores.head", "boxes.head"], [1, 2], scale, is_left_out=False)
    assert ranking.layers == ("boxes.head", "scores.head")


def test_an_output_that_the_reference_leaves_alone_does_not_enter() -> None:
    first = np.repeat([[0.2], [0.1]], 30, axis=1)
    found = two_outputs(first, np.repeat([[0.0], [7.0]], 30, axis=1))

    assert found.scale(0).values == pytest.approx([1.0, 0.5])
    assert found.outputs[1].effect(1, 0).ratio is None
    none = two_outputs(np.zeros((2, 30)), np.zeros((2, 30)))
    assert none.scale(0).values.tolist() == [0.0, 0.0]
    assert none.scale(0).decided_by == [-1, -1]


def test_what_a_metric_needs_is_named() -> None:
    plain = [(SampleCounts({"noise": np.ones(3), "signal": np.ones(3)}),)]
    with pytest.raises(DataError, match="'accuracy_drop' needs logits and labels"):
        Degradations([JudgedOutput("the output", metric="accuracy_drop")], plain, 0)
    with pytest.raises(DataError, match=r"'top1_agreement' needs logits or probabilities\. Give"):
        Degradations([JudgedOutput("the output", metric="top1_agreement")], plain, 0)


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert all((metric.label, metric.short, metric.needs, metric.columns))


@pytest.mark.parametrize("metric", ["kl", 3, "", ["nmse"]])
def test_an_unknown_metric_is_refused(metric: object) -> None:
    with pytest.raises(SchemeError, match="Valid: accuracy_drop, cosine"):
        check_metric(metric)  # type: ignore[arg-type]


def scores_and_boxes(noises: FloatArray, signal: FloatArray) -> Degradations:
    """Variants with divergences of 0.2 and 0.1, and noises of a second output of this energy."""
    judged = [JudgedOutput("scores", metric="kl_divergence"), JudgedOutput("boxes", metric="nmse")]
    boxes = [SampleCounts({"noise": noise, "signal": signal}) for noise in noises]
    scores = [outcome(np.full(len(signal), divergence)) for divergence in (0.2, 0.1)]
    pairs = zip(scores, boxes, strict=True)
    return Degradations(judged, [(*one, other) for one, other in pairs], 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", [1.0, math.nan], ids=["infinite", "nan"])
def test_an_output_whose_reference_is_infinite_or_nan_does_not_enter(noise: float) -> None:
    noises = np.repeat([[noise], [7.0]], 30, axis=1)
    found = scores_and_boxes(noises, np.full(30, 0.0 if noise == 1.0 else 4.0))
    scale = found.scale(0)

    assert not math.isfinite(found.outputs[1].means[0])
    assert scale.means == pytest.approx([1.0, 0.5])
    assert scale.resampled == pytest.approx(np.repeat([[1.0], [0.5]], RESAMPLES, axis=1))
    assert scale.decided_by == [0, 0]
    assert found.outputs[1].effect(1, 0).ratio is None


@pytest.mark.filterwarnings("error")
def test_an_output_does_not_enter_in_resamples_in_which_its_reference_is_infinite() -> None:
    # Only one sample of ten has any signal.
    found = scores_and_boxes(np.repeat([[0.4], [0.3]], 10, axis=1), np.array([10.0, *np.zeros(9)]))
    scale = found.scale(0)

    is_infinite = np.isinf(found.outputs[1].resampled[0])
    assert 0 < is_infinite.sum() < RESAMPLES
    assert scale.means == pytest.approx([1.0, 0.75])
    assert scale.resampled[1] == pytest.approx(np.where(is_infinite, 0.5, 0.75))
