"""Degradations, their intervals, and which neighbours are statistically tied."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_engine.errors import DataError, SchemeError
from quant_engine.metrics.bootstrap import RESAMPLES, bootstrap_means, percentile_intervals
from quant_engine.sensitivity.ranking import (
    MEASURES,
    MIN_DIFFERING,
    Degradations,
    check_metric,
    choose_measure,
)
from quant_engine.tensors.histogram import FloatArray
from quant_engine.variants.outcomes import Outcome


def outcome(values: FloatArray) -> Outcome:
    return Outcome(noise=values, divergence=values, agreement=1.0 - values, correct=1.0 - values)


def degradations(rows: FloatArray, metric: str = "kl_divergence", seed: int = 0) -> Degradations:
    samples = rows.shape[1]
    outcomes = [outcome(row) for row in rows]
    return Degradations.of(
        MEASURES[metric], outcomes, np.full(samples, 4.0), np.ones(samples), seed
    )


def is_tied(rows: FloatArray, seed: int = 0) -> bool:
    names = [str(number) for number in range(len(rows))]
    ranking = degradations(rows, seed=seed).rank("", names, range(len(rows)), is_left_out=False)
    (comparison,) = ranking.comparisons
    return comparison.is_tied


def test_each_metric_by_hand() -> None:
    rows = np.array([[0.0, 0.0], [0.5, 0.1]])
    values = {name: degradations(rows, name).values() for name in MEASURES}

    assert values["kl_divergence"] == [0.0, 0.3]
    assert values["nmse"] == pytest.approx([0.0, 0.6 / 8.0])
    assert values["sqnr_db"] == pytest.approx([math.inf, -10 * math.log10(0.6 / 8.0)])
    assert values["top1_agreement"] == [1.0, 0.7]
    assert values["accuracy_drop"] == [0.0, 0.3]


@pytest.mark.parametrize("metric", MEASURES)
def test_intervals_hold_the_value_and_grow_with_the_spread(
    metric: str, rng: np.random.Generator
) -> None:
    narrow, wide = 0.5 + 0.01 * rng.random(100), rng.random(100)
    found = degradations(np.stack([narrow, wide]), metric)

    widths = []
    for value, (lower, upper) in zip(found.values(), found.intervals(), strict=True):
        assert lower <= value <= upper
        widths.append(upper - lower)
    assert widths[0] < widths[1] / 10


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution(
    rng: np.random.Generator,
) -> None:
    samples = rng.normal(3.0, 2.0, 400)
    ((lower, upper),) = percentile_intervals(bootstrap_means(samples[None]))
    error = samples.std() / math.sqrt(400)

    assert lower == pytest.approx(samples.mean() - 1.96 * error, abs=0.2 * error)
    assert upper == pytest.approx(samples.mean() + 1.96 * error, abs=0.2 * error)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_rows_share_their_draws_whatever_stands_beside_them(seed: int, samples: int) -> None:
    rows = np.random.default_rng(seed).random((3, samples))
    together = bootstrap_means(rows, seed=seed)

    assert together.shape == (3, RESAMPLES)
    np.testing.assert_allclose(together[1:2], bootstrap_means(rows[1:2], seed=seed), rtol=1e-12)
    np.testing.assert_allclose(
        together[0] - together[1], bootstrap_means(rows[:1] - rows[1:2], seed=seed)[0], atol=1e-12
    )


def test_a_shift_on_every_sample_is_seen_though_the_intervals_overlap(
    rng: np.random.Generator,
) -> None:
    hard = rng.lognormal(0.0, 2.0, 200)
    rows = np.stack([hard * 1.05, hard])
    (low_above, _), (_, high_below) = degradations(rows).intervals()

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
    ranking = degradations(rows).rank("option", "abc", [0, 1, 2], is_left_out=is_left_out)

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
    ranking = degradations(np.zeros((3, 10))).rank("", "abc", [0, 1, 2], is_left_out=False)

    assert ranking.layers == ("a", "b", "c")
    assert all(c.is_tied and c.difference == 0.0 for c in ranking.comparisons)


def test_an_output_of_zeros() -> None:
    outcomes = [Outcome(noise=np.zeros(8)), Outcome(noise=np.ones(8)), Outcome(noise=np.ones(8))]
    found = Degradations.of(MEASURES["nmse"], outcomes, np.zeros(8), None, 0)

    assert found.values() == [0.0, math.inf, math.inf]
    ranking = found.rank("", "abc", [0, 1, 2], is_left_out=False)
    assert ranking.layers == ("b", "c", "a")
    assert ranking.comparisons[0].difference == 0.0


def test_what_a_metric_needs_is_named() -> None:
    plain = [Outcome(noise=np.ones(3))]
    with pytest.raises(DataError, match="'accuracy_drop' needs logits and labels"):
        Degradations.of(MEASURES["accuracy_drop"], plain, np.ones(3), None, 0)
    with pytest.raises(DataError, match=r"'top1_agreement' needs logits\. Give that"):
        Degradations.of(MEASURES["top1_agreement"], plain, np.ones(3), None, 0)


def test_the_default_depends_on_the_output() -> None:
    assert choose_measure(None, has_logits=True).name == "kl_divergence"
    assert choose_measure(None, has_logits=False).name == "nmse"


@pytest.mark.parametrize("metric", ["kl", 3, "", ["nmse"]])
def test_an_unknown_metric_is_refused(metric: object) -> None:
    with pytest.raises(SchemeError, match="Valid: accuracy_drop, kl_divergence"):
        check_metric(metric)  # type: ignore[arg-type]
