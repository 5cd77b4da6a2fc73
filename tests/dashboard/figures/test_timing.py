from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.facts.cost.executions import (
    baseline_text,
    batch_sizes,
    comparison_text,
    conditions_text,
    describe_times,
    execution,
    fastest_integer,
    is_baseline,
    ratio_to_baseline,
    time_rows,
    what_was_timed,
)
from dashboard.figures.cost.timing import model_timing_picture
from quant_engine.report import ThreadTrial, TimingEntry, TimingReport
from tests.dashboard.factories import (
    ENVIRONMENT,
    figure_of,
    is_empty_figure,
    make_report,
    with_integer_times,
)

model_timing_figure = figure_of(model_timing_picture)
TIMING = make_report().timing
INTEGER_TIMING = with_integer_times(make_report()).timing
assert TIMING is not None
assert INTEGER_TIMING is not None


def with_models(*entries):
    return TimingReport(ENVIRONMENT, 3, tuple(entries), ())


def test_bars_are_medians_with_quartiles():
    figure = model_timing_figure(TIMING, 64)
    (bars,) = figure.data
    entries = [entry for entry in TIMING.models if entry.batch_size == 64]
    assert list(bars.x) == [entry.median_ms for entry in entries]
    assert list(bars.error_x.array) == pytest.approx([e.q3_ms - e.median_ms for e in entries])
    assert list(bars.error_x.arrayminus) == pytest.approx([e.median_ms - e.q1_ms for e in entries])
    assert list(figure.layout.yaxis.ticktext) == [
        "float",
        "float (channels last)",
        "simulated int8",
    ]
    assert [note.text for note in figure.layout.annotations] == [
        "22 ms (1.13 × baseline)",
        "19.5 ms (baseline)",
        "51 ms (2.62 × baseline)",
    ]


def test_a_batch_size_nobody_timed_says_so():
    assert is_empty_figure(model_timing_figure(TIMING, 7))
    assert batch_sizes(TIMING) == (1, 64)
    assert describe_times(TIMING, 7) == "Nothing was timed at batch size 7."


def test_ratios_are_to_the_faster_float_layout_and_it_is_named():
    simulated, plain = TIMING.model("simulated", 64), TIMING.model("float", 64)
    assert ratio_to_baseline(TIMING, simulated) == pytest.approx(51 / 19.5)
    assert not is_baseline(TIMING, plain)
    assert comparison_text(TIMING, plain) == "1.13 × baseline"
    assert baseline_text(TIMING, 64) == (
        "Baseline: float (channels last), the faster of the two float layouts."
    )
    assert baseline_text(TIMING, 1) == "Baseline: float."
    assert is_baseline(TIMING, TIMING.model("float", 1))


def test_without_a_float_time_there_is_no_ratio():
    timing = with_models(TimingEntry("simulated", 1, 8.0, 7.0, 9.0, 20))
    assert ratio_to_baseline(timing, timing.models[0]) is None
    assert comparison_text(timing, timing.models[0]) == ""
    assert baseline_text(timing, 1) == ""


def test_a_float_time_of_zero_gives_no_ratio():
    timing = with_models(
        TimingEntry("float", 1, 0.0, 0.0, 0.0, 1), TimingEntry("simulated", 1, 1.0, 1.0, 1.0, 1)
    )
    assert ratio_to_baseline(timing, timing.models[1]) is None
    assert len(model_timing_figure(timing, 1).data[0].x) == 2


def test_executions_of_the_future_are_shown_under_their_own_name():
    timing = with_models(
        TimingEntry("float", 1, 10.0, 9.0, 11.0, 20),
        TimingEntry("integer", 1, 4.0, 3.0, 5.0, 20),
        TimingEntry("fused_kernel", 1, 2.0, 1.9, 2.1, 20),
    )
    figure = model_timing_figure(timing, 1)
    assert list(figure.layout.yaxis.ticktext) == ["float", "integer int8", "fused kernel"]
    assert figure.layout.annotations[2].text == "2 ms (0.20 × baseline)"
    assert figure.layout.annotations[1].text == "4 ms (0.40 × baseline, unreliable)"
    assert "integer int8 takes 4 ms: 0.40 × the 10 ms of float" in describe_times(timing, 1)


def test_executions_are_told_apart_without_colour_and_without_hatches():
    names = ("float", "float_channels_last", "simulated", "integer", "integer_lowered")
    looks = [execution(name) for name in names]
    assert len({look.label for look in looks}) == 5
    assert all(look.about for look in looks)
    figure = model_timing_figure(INTEGER_TIMING, 64)
    assert list(figure.layout.yaxis.ticktext) == [look.label for look in looks]
    assert figure.data[0].marker.pattern.shape is None


def test_the_fastest_integer_execution_is_meant_lowered_or_not():
    assert fastest_integer(INTEGER_TIMING, 64).execution == "integer_lowered"
    assert describe_times(INTEGER_TIMING, 64) == (
        "At batch size 64, integer int8 (lowered) takes 7.8 ms: 0.40 × the 19.5 ms of float "
        "(channels last)."
    )
    slower = with_models(
        TimingEntry("float", 1, 10.0, 9.0, 11.0, 20),
        TimingEntry("integer", 1, 4.0, 3.0, 5.0, 20),
        TimingEntry("integer_lowered", 1, 6.0, 5.0, 7.0, 20),
    )
    assert fastest_integer(slower, 1).execution == "integer"
    assert fastest_integer(TIMING, 64) is None


def test_conditions_name_everything_that_matters():
    text = conditions_text(TIMING)
    for part in ("Test CPU @ 2.0 GHz", "2 threads", "2.13.0", "30 timed runs", "3 warm-up runs"):
        assert part in text
    uneven = replace(TIMING, models=(replace(TIMING.models[0], runs=5), *TIMING.models[1:]))
    assert "5 to 30 timed runs" in conditions_text(uneven)
    assert "no timed runs" in conditions_text(with_models())


def test_conditions_say_what_there_is_to_doubt():
    layers = tuple(
        TimingEntry("float", 64, 1.0, 0.9, q3, 20, name)
        for name, q3 in (("a", 1.3), ("b", 1.1), ("c", 2.0))
    )
    timing = replace(
        with_models(
            TimingEntry("float", 1, 10.0, 8.0, 11.1, 20),
            TimingEntry("float", 64, 10.0, 9.0, 11.0, 20),
        ),
        layers=layers,
        limits=("Of the batch of 100 samples, 64 were timed together.",),
        thread_trials=(ThreadTrial(1, 9.5), ThreadTrial(2, 1524.0)),
    )
    text = conditions_text(timing)
    assert "float at batch size 1, 2 layers." in text
    assert "9.5 ms with 1 thread and 1.52 s with 2, so all was timed with 1." in text
    assert text.endswith("Of the batch of 100 samples, 64 were timed together.")


def test_what_was_timed_is_said_for_each_execution():
    text = what_was_timed(TIMING)
    assert "simulated int8: int8 values, computed in float" in text
    assert "integer int8" not in text


def test_hover_and_file_say_how_far_integers_lie_from_the_simulation():
    said = "by 12 % of the quantization error<br>(root mean squares, 64 samples)"
    hovers = model_timing_figure(INTEGER_TIMING, 64).data[0].hovertext
    assert [said in hover for hover in hovers] == [False] * (len(hovers) - 1) + [True]
    shares = {
        (row["execution"], row["batch_size"]): row["largest_difference_from_simulated_share"]
        for row in time_rows(INTEGER_TIMING)
        if row["layer"] == "(whole model)"
    }
    assert {key for key, share in shares.items() if share is not None} == {
        ("integer", 64),
        ("integer_lowered", 64),
    }
    assert shares["integer", 64] == pytest.approx(0.024)
