"""Shares with intervals, and differences that the samples show or do not show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dashboard.facts.accuracy import (
    NO_DIFFERENCE,
    AccuracyChange,
    change_text,
    compare_accuracy,
    output_change,
    share_interval,
    share_text,
)
from quant_engine.report import OutputReport
from tests.dashboard.factories import make_report

SAMPLES = 400


def test_wilson_interval_against_published_values() -> None:
    # Newcombe (1998), method 3: 81 of 263, and 0 of 20.
    assert share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert share_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert share_interval(0.5, 0) is None


def test_paired_interval_against_a_published_value() -> None:
    # Fagerland, Lydersen and Laake (2014): 21 children, 7 changed one way and 1 the other.
    low, high = AccuracyChange(21, lost=7, won=1).interval
    assert (low, high) == pytest.approx((-0.508, -0.013), abs=1e-3)


@pytest.mark.parametrize("net", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_handful_of_samples_is_no_difference(net: int, sign: int) -> None:
    change = AccuracyChange(SAMPLES, *((0, net) if sign > 0 else (net, 0)))

    assert not change.is_clear
    assert change_text(change).endswith(NO_DIFFERENCE)
    assert change_text(change).startswith(f"{'+' if sign > 0 else '−'}{net} of 400 samples")


@pytest.mark.parametrize(("lost", "won", "verdict"), [(0, 6, "better"), (6, 0, "worse")])
def test_six_samples_that_all_changed_one_way_are_a_difference(
    lost: int, won: int, verdict: str
) -> None:
    change = AccuracyChange(SAMPLES, lost, won)

    assert change.verdict == verdict
    assert change_text(change).startswith("+1.5 points (" if won else "−1.5 points (")
    assert change.is_clear


def test_the_verdict_is_that_of_mcnemars_exact_test_but_for_its_edge() -> None:
    for lost in range(30):
        for won in range(30):
            p = binomtest(won, lost + won).pvalue if lost + won else 1.0
            is_clear = AccuracyChange(SAMPLES, lost, won).is_clear
            assert not (is_clear and p > 0.11), (lost, won)
            assert not (not is_clear and p < 0.03), (lost, won)


def test_the_interval_covers_what_is_true() -> None:
    rng = np.random.default_rng(0)
    shares = (0.03, 0.01, 0.96)  # lost, won, neither
    drawn = rng.multinomial(SAMPLES, shares, size=2000)
    covered = 0
    for lost, won, _ in drawn:
        low, high = AccuracyChange(SAMPLES, int(lost), int(won)).interval
        covered += low <= shares[1] - shares[0] <= high
    assert 0.935 < covered / len(drawn) < 0.97


@given(
    st.integers(1, 300).flatmap(
        lambda n: st.tuples(
            st.just(n), *(st.lists(st.booleans(), min_size=n, max_size=n) for _ in range(2))
        )
    )
)
def test_what_is_not_known_makes_the_interval_wider_and_never_narrower(
    drawn: tuple[int, list[bool], list[bool]],
) -> None:
    samples, before, after = drawn
    first, second = np.array(before), np.array(after)
    true = AccuracyChange(samples, int((first & ~second).sum()), int((~first & second).sum()))
    changed = int((first != second).sum())
    shares = float(first.mean()), float(second.mean())

    assert compare_accuracy(*shares, samples, changed=changed) == true
    for limit in (changed + 3, None):
        wide = compare_accuracy(*shares, samples, changed=limit)
        assert wide is not None
        assert wide.difference == pytest.approx(true.difference)
        low, high = np.diff(wide.interval)[0], np.diff(true.interval)[0]
        assert low >= high - 1e-12
        assert wide.won - wide.lost == true.won - true.lost
        assert min(wide.won, wide.lost) >= 0


def output(before: float, after: float, agreement: float) -> OutputReport:
    found = make_report().output
    assert found is not None
    return replace(
        found,
        samples=SAMPLES,
        labelled_samples=SAMPLES,
        accuracy_float=before,
        accuracy_quantized=after,
        top1_agreement=agreement,
    )


def test_two_more_of_400_samples_right_is_no_difference() -> None:
    change = output_change(output(0.9775, 0.9825, 0.99))

    assert change == AccuracyChange(SAMPLES, lost=1, won=3)
    assert change_text(change) == "+2 of 400 samples: no difference the data shows"


def test_a_broken_model_is_worse() -> None:
    change = output_change(output(0.9925, 0.165, 0.17))

    assert change is not None
    assert change.verdict == "worse"


def test_nothing_is_compared_without_labels() -> None:
    assert output_change(None) is None
    assert output_change(replace(output(0.9, 0.9, 1.0), accuracy_float=None)) is None
    assert share_text(0.985, SAMPLES) == "98.5 % (96.8–99.3)"
