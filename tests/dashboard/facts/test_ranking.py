from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quant_engine
from dashboard.facts.accuracy import AccuracyChange
from dashboard.facts.diagnosis.culprit import find_culprit
from dashboard.facts.sensitivity.metrics import METRICS, available_metrics
from dashboard.facts.sensitivity.ranking import (
    describe_ties,
    pareto_front,
    rank_layers,
    rivals_of_first,
    tie_runs,
)
from dashboard.figures.sensitivity.ranking import describe_ranking
from quant_engine.report import NeighbourComparison, Ranking
from tests.dashboard.factories import make_sensitivity
from tests.dashboard.small_sensitivity import make_layer, make_report

KL = METRICS["kl_divergence"]
SQNR = METRICS["sqnr_db"]


def names(ranked):
    return [row.name for row in ranked]


def test_one_at_a_time_puts_the_largest_error_first():
    report = make_report([make_layer("a", 0.1), make_layer("b", 0.3), make_layer("c", 0.2)])
    assert names(rank_layers(report, KL)) == ["b", "c", "a"]


def test_leave_one_out_puts_the_smallest_remaining_error_first():
    report = make_report(
        [make_layer("a", 0.1), make_layer("b", 0.3), make_layer("c", 0.2)],
        direction="leave_one_out",
    )
    assert names(rank_layers(report, KL)) == ["a", "c", "b"]


def test_a_low_sqnr_is_sensitive_and_an_exact_layer_comes_last():
    report = make_report(
        [
            make_layer("exact", sqnr_db=math.inf),
            make_layer("bad", sqnr_db=5.0),
            make_layer("good", sqnr_db=50.0),
        ]
    )
    ranked = rank_layers(report, SQNR)
    assert names(ranked) == ["bad", "good", "exact"]
    assert ranked[-1].value == math.inf


def test_equal_values_keep_the_order_in_which_layers_run():
    report = make_report([make_layer("z", 0.1), make_layer("a", 0.1)])
    assert names(rank_layers(report, KL)) == ["z", "a"]


def test_accuracy_is_ranked_with_paired_intervals():
    layers = [
        make_layer("a", drop=0.4, top1=0.6),
        make_layer("b", drop=0.01, top1=0.98),
        make_layer("c", drop=0.0),
    ]
    ranked = rank_layers(make_report(layers), METRICS["accuracy_drop"])
    assert [row.is_tied for row in ranked] == [False, True, True]
    assert [row.rank_text for row in ranked] == ["1", "2 (2–3)", "3 (2–3)"]
    lost_one = AccuracyChange(100, lost=1, won=0).interval
    assert ranked[1].interval == pytest.approx((-100 * lost_one[1], -100 * lost_one[0]))


def test_layers_without_a_value_are_left_out():
    report = make_report([make_layer("a", None), make_layer("b", math.nan), make_layer("c", 0.1)])
    assert names(rank_layers(report, KL)) == ["c"]


def test_ties_are_between_neighbours_whose_intervals_overlap():
    report = make_report(
        [
            make_layer("first", 1.0, (0.9, 1.1)),
            make_layer("second", 0.5, (0.4, 0.6)),
            make_layer("third", 0.38, (0.3, 0.45)),
            make_layer("fourth", 0.28, (0.2, 0.35)),
            make_layer("last", 0.1, (0.05, 0.15)),
        ]
    )
    ranked = rank_layers(report, KL)
    assert [row.is_tied for row in ranked] == [False, True, True, True, False]
    assert tie_runs(ranked) == ((1, 3),)
    # second and fourth do not overlap: the third's place is open, theirs are not both.
    assert [row.rank_text for row in ranked] == ["1", "2 (2–3)", "3 (2–4)", "4 (3–4)", "5"]


def test_the_reports_own_comparison_goes_before_overlapping_intervals():
    layers = [
        make_layer("a", 0.5, (0.1, 0.9)),
        make_layer("b", 0.4, (0.1, 0.8)),
        make_layer("c", 0.1, (0.09, 0.11)),
    ]
    pairs = (
        NeighbourComparison("a", "b", 0.1, (0.05, 0.15), is_tied=False),
        NeighbourComparison("b", "c", 0.3, (-0.1, 0.5), is_tied=True),
    )
    plain = make_report(layers)
    report = replace(plain, rankings=(Ranking("", ("a", "b", "c"), pairs),))

    assert tie_runs(rank_layers(plain, KL)) == ((0, 2),)
    assert tie_runs(rank_layers(report, KL)) == ((1, 2),)
    # Rows that are no neighbours in the ranking are tied where all between them are.
    first, _, last = rank_layers(report, KL)
    assert tie_runs((first, last)) == ()
    first, _, last = rank_layers(plain, KL)
    assert tie_runs((first, last)) == ((0, 1),)
    # Nor does the report compare by another measure, whose intervals it does not hold either.
    others = rank_layers(replace(report, metric="nmse"), KL)
    assert not any(row.is_compared or row.is_tied for row in others)
    assert {row.interval for row in others} == {None}


def test_rivals_of_the_first_and_ranks_follow_the_reports_own_comparisons():
    wide, narrow = (0.0, 0.9), (0.299, 0.301)
    layers = [
        make_layer("a", 0.5, wide),
        make_layer("b", 0.4, wide),
        make_layer("c", 0.3, narrow),
        make_layer("d", 0.2, wide),
    ]
    pairs = tuple(
        NeighbourComparison(above, below, 0.1, (0.0, 0.2), is_tied=is_tied)
        for above, below, is_tied in (("a", "b", True), ("b", "c", False), ("c", "d", True))
    )
    plain = make_report(layers)
    report = replace(plain, rankings=(Ranking("", ("a", "b", "c", "d"), pairs),))

    assert rivals_of_first(rank_layers(plain, KL)) == ("b", "c", "d")
    ranked = rank_layers(report, KL)
    assert rivals_of_first(ranked) == ("b",)
    assert [row.rank_text for row in ranked] == ["1 (1–2)", "2 (1–2)", "3 (3–4)", "4 (3–4)"]
    assert describe_ranking(report, ranked, KL).endswith(
        " 1 other layer is statistically tied with it."
    )
    # The culprit and the ranking say the same, by the report's measure and by any other.
    for measured in (report, plain):
        culprit = find_culprit(None, [measured])
        assert culprit is not None
        assert culprit.tied == rivals_of_first(rank_layers(measured, KL))


@pytest.mark.parametrize("is_left_out", [False, True])
def test_the_ends_of_a_long_run_of_ties_are_told_apart_by_their_intervals(is_left_out):
    values = (0.8, 0.4, 0.2, 0.1, 0.05)
    around = [(value / 2.5, value * 2.5) for value in values]  # overlap up to two places apart
    layers = [
        make_layer(name, 1.0 - value, (0.0, 1.0)) if is_left_out else make_layer(name, value, span)
        for name, value, span in zip("abcde", values, around, strict=True)
    ]
    if is_left_out:  # whose own intervals all overlap; what is gained is known in pairs
        layers = [
            replace(layer, gain_interval=span) for layer, span in zip(layers, around, strict=True)
        ]
    pairs = tuple(
        NeighbourComparison(above, below, 0.1, (-0.1, 0.3), is_tied=True)
        for above, below in pairwise("abcde")
    )
    direction = "leave_one_out" if is_left_out else "one_at_a_time"
    plain = make_report(layers, direction=direction)
    ranked = rank_layers(replace(plain, rankings=(Ranking("", tuple("abcde"), pairs),)), KL)

    assert names(ranked) == list("abcde")
    assert rivals_of_first(ranked) == ("b", "c")
    assert [row.could_be for row in ranked] == ["1–3", "1–4", "1–5", "2–5", "3–5"]
    assert tie_runs(ranked) == ((0, 4),), "each is tied with its neighbour all the same"
    assert tie_runs([ranked[0], ranked[2], ranked[4]]) == ((0, 2),)
    assert tie_runs([ranked[0], ranked[3]]) == ()


def test_ties_in_leave_one_out_use_the_same_intervals():
    layers = [make_layer("a", 0.5, (0.4, 0.6)), make_layer("b", 0.45, (0.3, 0.55))]
    ranked = rank_layers(make_report(layers, direction="leave_one_out"), KL)
    assert names(ranked) == ["b", "a"]
    assert [row.rank_text for row in ranked] == ["1 (1–2)", "2 (1–2)"]


def test_a_value_outside_its_own_interval_is_still_ordered_by_the_value():
    layers = [make_layer("a", 0.5, (0.1, 0.2)), make_layer("b", 0.4, (0.39, 0.41))]
    ranked = rank_layers(make_report(layers), KL)
    assert names(ranked) == ["a", "b"]
    assert ranked[0].first_possible == 1


def test_no_layers_and_one_layer():
    assert rank_layers(make_report([]), KL) == ()
    assert tie_runs(()) == ()
    (only,) = rank_layers(make_report([make_layer("a")]), KL)
    assert only.rank_text == "1"
    assert not only.is_tied


def test_saved_bytes():
    report = make_report([make_layer("a", float_bytes=400, quantized_bytes=130)])
    assert rank_layers(report, KL)[0].saved_bytes == 270


@given(
    st.lists(
        st.tuples(st.floats(0, 10), st.floats(0, 2), st.floats(0, 2)), min_size=1, max_size=30
    ),
    st.sampled_from(["one_at_a_time", "leave_one_out"]),
)
def test_every_position_lies_in_its_own_possible_range(values, direction):
    layers = [
        make_layer(str(i), kl, (kl - below, kl + above))
        for i, (kl, below, above) in enumerate(values)
    ]
    ranked = rank_layers(make_report(layers, direction=direction), KL)
    for row in ranked:
        assert 1 <= row.first_possible <= row.position <= row.last_possible <= len(ranked)
        if row.is_tied_with_next:
            assert row.last_possible > row.position
    for above, below in pairwise(ranked):
        assert above.is_tied_with_next == below.is_tied_with_previous


@pytest.mark.parametrize("key", list(METRICS))
def test_badness_grows_with_the_error(key):
    metric = METRICS[key]
    good = make_layer("good", 0.01, sqnr_db=60.0, nmse=1e-6, top1=1.0, drop=0.0)
    bad = make_layer("bad", 1.0, sqnr_db=3.0, nmse=0.5, top1=0.4, drop=0.5)
    assert metric.badness(metric.value(bad)) > metric.badness(metric.value(good))


def test_shares_are_shown_in_percent():
    layer = make_layer("a", top1=0.97, drop=0.015)
    assert METRICS["top1_agreement"].value(layer) == pytest.approx(3.0)
    assert METRICS["accuracy_drop"].value(layer) == pytest.approx(1.5)


def test_the_stored_interval_belongs_to_the_metric_that_the_report_ranks_by():
    with_logits = make_layer("a", 0.1, (0.05, 0.2))
    without = make_layer("a", None, (0.001, 0.01), top1=None, drop=None, nmse=0.005)
    by_kl = make_report([with_logits])
    by_nmse = replace(by_kl, metric="nmse")
    assert METRICS["kl_divergence"].interval(with_logits, by_kl) == (0.05, 0.2)
    assert METRICS["kl_divergence"].interval(with_logits, by_nmse) is None
    assert METRICS["nmse"].interval(with_logits, by_kl) is None
    assert METRICS["nmse"].interval(without, by_nmse) == (0.001, 0.01)
    assert METRICS["sqnr_db"].interval(without, by_nmse) == pytest.approx((20.0, 30.0))


def test_an_nmse_interval_that_reaches_zero_is_an_infinite_sqnr():
    layer = make_layer("a", None, (0.0, 0.01), nmse=0.005)
    report = replace(make_report([layer]), metric="nmse")
    assert METRICS["sqnr_db"].interval(layer, report) == pytest.approx((20.0, math.inf))


def test_an_interval_of_nan_counts_as_none():
    layer = make_layer("a", 0.1, (math.nan, math.nan))
    assert KL.interval(layer, make_report([layer])) is None


def test_measures_nothing_has_are_not_offered():
    report = make_report([make_layer("a", None, top1=None, drop=None)])
    assert [metric.key for metric in available_metrics(report)] == ["nmse", "sqnr_db"]


def test_pareto_front_keeps_what_nothing_beats():
    points = [(1, 1), (2, 1), (3, 5), (3, 4), (0, 0.5), (2.5, 9)]
    assert pareto_front(points) == (4, 1, 3)


def test_pareto_front_keeps_equal_points_and_ignores_nan():
    assert pareto_front([(1, 1), (1, 1), (math.nan, 0), (2, math.nan)]) == (1, 0)
    assert pareto_front([]) == ()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_pareto_front_is_what_the_definition_says(points):
    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    expected = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    front = pareto_front(points)
    assert set(front) == expected
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def ranked_by(metric, *order):
    comparisons = tuple(
        NeighbourComparison(above, below, 0.1, (-0.1, 0.3), is_tied=True)
        for above, below in pairwise(order)
    )
    layers = [make_layer("a", 0.2), make_layer("b", 0.2), make_layer("c", 0.1)]
    report = make_report(layers)
    return replace(report, metric=metric, rankings=(Ranking("", tuple(order), comparisons),))


def test_the_order_is_the_reports_own_where_it_ranks_by_the_measure():
    report = ranked_by("kl_divergence", "b", "a", "c")
    assert names(rank_layers(report, KL)) == ["b", "a", "c"]
    assert names(rank_layers(replace(report, metric="nmse"), KL)) == ["a", "b", "c"]


def test_a_ranking_of_other_layers_is_not_followed():
    report = ranked_by("kl_divergence", "b", "a")
    assert names(rank_layers(report, KL)) == ["a", "b", "c"]


def test_it_is_said_how_ties_were_decided():
    report = ranked_by("kl_divergence", "b", "a", "c")
    assert "compared on the same samples" in describe_ties(report, KL)
    assert "by KL divergence only" in describe_ties(report, METRICS["top1_agreement"])
    assert "intervals overlap" in describe_ties(report, METRICS["top1_agreement"])


def test_measures_are_metrics_of_the_engine_and_one_is_turned() -> None:
    assert set(METRICS) <= set(quant_engine.METRICS)
    turned = [k for k, m in METRICS.items() if m.label != quant_engine.METRICS[k].label]
    assert turned == ["top1_agreement"]  # shown as the share that changes


def test_layers_stopped_early_are_named_with_their_samples() -> None:
    report = make_sensitivity()
    first, second, *others = report.layers
    some = replace(report, layers=(first, replace(second, samples=16), *others))

    assert "Stopped early" not in describe_ties(report, KL)
    assert describe_ties(some, KL).endswith(
        f"judged on 16 of {report.samples} samples: {second.name}."
    )
    accuracy = METRICS["top1_agreement"]
    sixteen = accuracy.interval(second, replace(report, samples=16))
    assert sixteen != accuracy.interval(second, report)
    row = next(row for row in rank_layers(some, accuracy) if row.name == second.name)
    assert row.interval == sixteen
