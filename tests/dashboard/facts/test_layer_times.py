"""Which layers gain on integers: the sorting, the judgement, and the figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.facts.cost.layer_times import (
    FLOAT_ONLY,
    GAINS,
    LOSES,
    UNCLEAR,
    LayerTime,
    describe_layer_times,
    layer_times,
    most_telling,
)
from dashboard.figures.cost.layer_times import layer_time_rows, layer_times_figure
from quant_engine.report import TimingEntry, TimingReport
from tests.dashboard.factories import (
    ENVIRONMENT,
    LOOKED_UP_LAYER,
    SMALL_LAYERS,
    UNCLEAR_LAYER,
    is_empty_figure,
    make_report,
    with_integer_times,
)

REPORT = with_integer_times(make_report())
assert REPORT.timing is not None
TIMING = REPORT.timing
GAINED = layer_times(TIMING)


def gain(before: tuple[float, float, float], after: tuple[float, float, float]) -> LayerTime:
    (q1, median, q3), (p1, middle, p3) = before, after
    return LayerTime(
        "a",
        TimingEntry("float", 8, median, q1, q3, 20, "a"),
        TimingEntry("integer", 8, middle, p1, p3, 20, "a"),
    )


def test_layers_are_sorted_by_what_they_gain_and_float_ones_come_last() -> None:
    pairs = [gain for gain in GAINED if gain.after is not None]
    amounts = [gain.gain_ms for gain in pairs]
    assert amounts == sorted(amounts, reverse=True)
    assert list(GAINED[: len(pairs)]) == pairs
    names = {layer.name for layer in REPORT.quantized_layers}
    assert {gain.name for gain in pairs} == names - {LOOKED_UP_LAYER}, "no products, no gain"
    assert {gain.name for gain in GAINED} == {layer.name for layer in REPORT.layers}
    assert {g.name for g in GAINED if g.kind == LOSES} == set(SMALL_LAYERS)
    assert {g.name for g in GAINED if g.kind == UNCLEAR} == {UNCLEAR_LAYER}
    slow = [g.before.median_ms for g in GAINED if g.kind == FLOAT_ONLY]
    assert slow == sorted(slow, reverse=True)


def test_integers_are_those_of_the_fastest_execution_where_layers_were_timed_in_it() -> None:
    assert {gain.after.execution for gain in GAINED if gain.after} == {"integer"}
    assert "In integer int8 (lowered), which is faster, single layers were not timed." in (
        describe_layer_times(GAINED, TIMING)
    )
    lowered = tuple(
        replace(e, execution="integer_lowered", median_ms=e.median_ms / 2)
        for e in TIMING.layers
        if e.execution == "integer"
    )
    timing = replace(TIMING, layers=(*TIMING.layers, *lowered))
    times = layer_times(timing)
    assert {gain.after.execution for gain in times if gain.after} == {"integer_lowered"}
    text = describe_layer_times(times, timing)
    assert text.startswith("Integer int8 (lowered): 6 layers gain time")
    assert "not timed" not in text


def test_float_is_taken_in_the_layout_that_is_the_baseline() -> None:
    assert {g.before.execution for g in GAINED if g.after} == {"float_channels_last"}
    plain = replace(
        TIMING, layers=tuple(e for e in TIMING.layers if e.execution != "float_channels_last")
    )
    assert {gain.before.execution for gain in layer_times(plain)} == {"float"}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ((2.0, 2.1, 2.2), (1.0, 1.1, 1.2), GAINS),
        ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), LOSES),
        ((1.0, 1.5, 2.0), (1.9, 2.5, 3.0), UNCLEAR),
        ((1.0, 1.5, 2.0), (2.0, 2.5, 3.0), UNCLEAR),  # they touch
        ((1.0, 1.5, 2.0), (1.4, 1.5, 1.6), UNCLEAR),
    ],
)
def test_overlapping_quartiles_are_no_clear_difference(
    before: tuple[float, float, float], after: tuple[float, float, float], kind: str
) -> None:
    assert gain(before, after).kind == kind


def test_the_figure_has_both_times_of_a_layer_in_its_row() -> None:
    figure = layer_times_figure(GAINED, selected=GAINED[1].name)
    *joins, floats, integers, targets = figure.data
    assert [trace.name for trace in joins] == [GAINS, LOSES, UNCLEAR]
    assert len({(trace.line.color, trace.line.dash) for trace in joins}) == len(joins)
    for dots, entries in (
        (floats, [(row, g.before) for row, g in enumerate(GAINED)]),
        (integers, [(row, g.after) for row, g in enumerate(GAINED) if g.after]),
    ):
        assert list(dots.customdata) == [entry.layer for _, entry in entries]
        assert list(dots.y) == [row for row, _ in entries]
        assert list(dots.x) == [entry.median_ms for _, entry in entries]
        assert list(dots.error_x.array) == [e.q3_ms - e.median_ms for _, e in entries]
    assert floats.marker.symbol != integers.marker.symbol  # told apart without colour
    assert list(targets.customdata) == [gain.name for gain in GAINED]
    assert figure.layout.yaxis.ticktext[1].startswith("▶")
    assert [shape.y0 for shape in figure.layout.shapes] == [pytest.approx(0.52)]
    ends = {(x, y) for trace in joins for x, y in zip(trace.x, trace.y, strict=True) if x}
    assert ends == {
        (entry.median_ms, row)
        for row, g in enumerate(GAINED)
        for entry in (g.before, g.after)
        if g.after
    }


def test_only_the_most_telling_are_kept_in_their_order() -> None:
    kept = most_telling(GAINED, 3)
    rest = [g for g in GAINED if g not in kept]
    assert len(kept) == 3
    assert min(abs(g.gain_ms) for g in kept) >= max(abs(g.gain_ms) for g in rest)
    assert [g for g in GAINED if g in kept] == list(kept)
    assert most_telling(GAINED, None) == GAINED


def test_words_count_and_sum_up() -> None:
    text = describe_layer_times(GAINED, TIMING)
    assert "6 layers gain time, 2 lose time, and 1 shows no clear difference. " in text
    assert "in float (channels last)" in text
    assert "at batch size 64" in text


def test_kinds_that_no_layer_has_are_left_out() -> None:
    gains, loses = gain((2, 2, 2), (1, 1, 1)), gain((1, 1, 1), (2, 2, 2))
    unclear = gain((1, 2, 3), (1, 2, 3))
    for layers, words in (
        ([gains], "Integer int8: 1 layer gains time. "),
        ([loses] * 24, "Integer int8: 24 layers lose time. "),
        ([unclear] * 2, "Integer int8: 2 layers show no clear difference. "),
        ([gains, gains, loses], "Integer int8: 2 layers gain time and 1 loses time. "),
        ([loses, unclear, unclear], "Integer int8: 1 layer loses time and 2 show no clear"),
    ):
        assert describe_layer_times(layers, TIMING).startswith(words)


def test_the_data_of_the_figure_holds_every_execution() -> None:
    rows = layer_time_rows(GAINED, TIMING)
    assert len(rows) == len(TIMING.layers)
    first = next(row for row in rows if row["layer"] == GAINED[0].name)
    assert first["verdict"] == GAINS
    assert first["gain_ms"] == GAINED[0].gain_ms
    assert {row["execution"] for row in rows} >= {"float", "simulated", "integer"}


def test_nothing_timed_on_integers_says_so() -> None:
    nothing = TimingReport(ENVIRONMENT, 3, (), ())
    assert layer_times(nothing) == ()
    assert is_empty_figure(layer_times_figure(()))
    assert describe_layer_times((), nothing) == "Single layers were not timed."
    old = make_report().timing
    assert old is not None
    times = layer_times(old)
    assert {time.kind for time in times} == {FLOAT_ONLY}
    slowest = max(times, key=lambda time: time.before.median_ms)
    assert describe_layer_times(times, old).startswith("No layer multiplies integers; the slowest")
    assert slowest.name in describe_layer_times(times, old)
    floats, _ = layer_times_figure(times).data
    assert len(floats.x) == len(times)


def test_layers_that_take_no_time_at_all_can_be_drawn() -> None:
    assert layer_times_figure([gain((0, 0, 0), (0, 0, 0))]).data
