"""Which layers gain on integers: the sorting, the judgement, and the figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.figures.layer_gains import (
    GAINS,
    LOSES,
    UNCLEAR,
    LayerGain,
    describe_gains,
    gain_rows,
    largest_gains,
    layer_gains,
    layer_gains_figure,
)
from dashboard.figures.theme import is_empty_figure
from quant_engine.report import TimingEntry, TimingReport
from tests.dashboard.factories import (
    ENVIRONMENT,
    LOOKED_UP_LAYER,
    SMALL_LAYERS,
    UNCLEAR_LAYER,
    make_report,
    with_integer_times,
)

REPORT = with_integer_times(make_report())
assert REPORT.timing is not None
TIMING = REPORT.timing
GAINED = layer_gains(TIMING)


def gain(before: tuple[float, float, float], after: tuple[float, float, float]) -> LayerGain:
    (q1, median, q3), (p1, middle, p3) = before, after
    return LayerGain(
        "a",
        TimingEntry("float", 8, median, q1, q3, 20, "a"),
        TimingEntry("integer", 8, middle, p1, p3, 20, "a"),
    )


def test_layers_are_sorted_by_what_they_gain() -> None:
    amounts = [gain.gain_ms for gain in GAINED]
    assert amounts == sorted(amounts, reverse=True)
    names = {layer.name for layer in REPORT.quantized_layers}
    assert {gain.name for gain in GAINED} == names - {LOOKED_UP_LAYER}, "no products, no gain"
    assert {g.name for g in GAINED if g.kind == LOSES} == set(SMALL_LAYERS)
    assert {g.name for g in GAINED if g.kind == UNCLEAR} == {UNCLEAR_LAYER}


def test_float_is_taken_in_the_layout_that_is_the_baseline() -> None:
    assert {gain.before.execution for gain in GAINED} == {"float_channels_last"}
    plain = replace(
        TIMING, layers=tuple(e for e in TIMING.layers if e.execution != "float_channels_last")
    )
    assert {gain.before.execution for gain in layer_gains(plain)} == {"float"}


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


def test_the_figure_has_a_bar_a_layer_on_the_side_of_the_faster() -> None:
    figure = layer_gains_figure(GAINED, selected=GAINED[1].name)
    *bars, targets = figure.data
    assert [trace.name for trace in bars] == [GAINS, LOSES, UNCLEAR]
    drawn = {
        name: (x, y)
        for trace in bars
        for name, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)
    }
    assert drawn == {g.name: (g.gain_ms, row) for row, g in enumerate(GAINED)}
    assert list(targets.customdata) == [gain.name for gain in GAINED]
    low, high = figure.layout.xaxis.range
    assert low < GAINED[-1].gain_ms < 0 < GAINED[0].gain_ms < high
    assert figure.layout.yaxis.ticktext[1].startswith("▶")
    assert [shape.y0 for shape in figure.layout.shapes] == [pytest.approx(0.52)]
    looks = [(trace.marker.color, trace.marker.pattern.shape) for trace in bars]
    assert len({pattern for _, pattern in looks}) == len(looks)  # told apart without colour
    assert "float (channels last) minus integer int8" in figure.layout.title.text


def test_only_the_largest_are_kept_in_their_order() -> None:
    kept = largest_gains(GAINED, 3)
    rest = [g for g in GAINED if g not in kept]
    assert len(kept) == 3
    assert min(abs(g.gain_ms) for g in kept) >= max(abs(g.gain_ms) for g in rest)
    assert [g for g in GAINED if g in kept] == list(kept)
    assert largest_gains(GAINED, None) == GAINED


def test_words_count_and_sum_up() -> None:
    text = describe_gains(GAINED)
    assert "6 layers gain time, 2 lose time, and 1 shows no clear difference. " in text
    assert "in float (channels last)" in text
    assert "at batch size 64" in text


def test_kinds_that_no_layer_has_are_left_out() -> None:
    gains, loses = gain((2, 2, 2), (1, 1, 1)), gain((1, 1, 1), (2, 2, 2))
    unclear = gain((1, 2, 3), (1, 2, 3))
    for layers, words in (
        ([gains], "On integers 1 layer gains time. "),
        ([loses] * 24, "On integers 24 layers lose time. "),
        ([unclear] * 2, "On integers 2 layers show no clear difference. "),
        ([gains, gains, loses], "On integers 2 layers gain time and 1 loses time. "),
        ([loses, unclear, unclear], "On integers 1 layer loses time and 2 show no clear"),
    ):
        assert describe_gains(layers).startswith(words)


def test_the_numbers_of_the_figure_can_be_downloaded() -> None:
    row = gain_rows(GAINED)[0]
    assert row["gain_ms"] == pytest.approx(row["float_median_ms"] - row["integer_median_ms"])
    assert row["verdict"] == GAINS


def test_nothing_timed_on_integers_says_so() -> None:
    assert layer_gains(TimingReport(ENVIRONMENT, 3, (), ())) == ()
    old = make_report().timing
    assert old is not None
    assert layer_gains(old) == ()
    assert is_empty_figure(layer_gains_figure(()))
    assert describe_gains(()).startswith("No layer")


def test_layers_that_take_no_time_at_all_can_be_drawn() -> None:
    figure = layer_gains_figure([gain((0, 0, 0), (0, 0, 0))])
    low, high = figure.layout.xaxis.range
    assert low < 0 < high
