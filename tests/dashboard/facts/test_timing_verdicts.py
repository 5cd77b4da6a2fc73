"""What is said about measured times: true, with its numbers, and never a simulated speed-up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.facts.cost.timing_verdicts import (
    gap_verdict,
    timing_verdicts,
    timing_words,
    was_compared,
    why_slower,
)
from dashboard.facts.diagnosis.verdicts import GOOD, INFO, WATCH, Verdict
from quant_engine.report import (
    NOT_COMPARED,
    ExecutionGap,
    LayerExecution,
    TimingEntry,
    TimingReport,
)
from tests.dashboard.factories import ENVIRONMENT, SMALL_LAYERS, make_report, with_integer_times

REPORT = with_integer_times(make_report())
assert REPORT.timing is not None
TIMING = REPORT.timing
NOT_ON_INTEGERS = make_report().timing
assert NOT_ON_INTEGERS is not None


def timed(*models: tuple[str, float, float, float], **fields: object) -> TimingReport:
    entries = tuple(TimingEntry(kind, 1, m, q1, q3, 20) for kind, q1, m, q3 in models)
    return replace(TimingReport(ENVIRONMENT, 3, entries, ()), **fields)


def find(verdicts: tuple[Verdict, ...], start: str) -> Verdict:
    (found,) = [verdict for verdict in verdicts if verdict.subject.startswith(start)]
    return found


def test_faster_is_said_of_the_fastest_way_with_the_factor_against_the_faster_layout() -> None:
    verdict = find(timing_verdicts(TIMING, 64), "On integers")
    assert verdict.tone == GOOD
    assert "faster than float" in verdict.subject
    assert verdict.text == (
        "7.8 ms as integer int8 (lowered) against 19.5 ms for float (channels last): 2.50 times as "
        "fast. The slower way, integer int8, takes 18.9 ms."
    )


def test_a_slower_way_is_no_reason_to_worry() -> None:
    ways = (("float", 4.0, 4.1, 4.2), ("integer", 6.2, 6.3, 6.4), ("integer_lowered", 3, 3.6, 3.7))
    verdicts = timing_verdicts(timed(*ways), 1)
    assert [v.tone for v in verdicts] == [GOOD]
    assert "The slower way, integer int8, takes 6.3 ms." in verdicts[0].text


def test_overlapping_quartiles_are_called_no_clear_difference() -> None:
    verdict = find(timing_verdicts(timed(("float", 9, 10, 11), ("integer", 10, 11, 12)), 1), "On")
    assert verdict.tone == INFO
    assert "no clear difference" in verdict.subject
    assert "10 ms to 12 ms" in verdict.text
    assert "fast" not in verdict.text


def test_slower_is_said_with_the_factor_and_why() -> None:
    verdicts = timing_verdicts(TIMING, 1)
    verdict = find(verdicts, "On integers:")
    assert verdict.tone == WATCH
    assert "slower than float" in verdict.subject
    assert "1.58 times as long" in verdict.text
    why = find(verdicts, "Why slower?")
    assert "2 of 9 layers lose time" in why.text
    assert all(name in why.text for name in SMALL_LAYERS)
    assert "Layers were timed at batch size 64; at 1 each has less to compute" in why.text
    assert "All layers together take 13.6 ms on integers and 12.4 ms in float." in why.text


def test_why_is_not_asked_where_nothing_is_slower() -> None:
    assert not [v for v in timing_verdicts(TIMING, 64) if v.subject == "Why slower?"]


def layered(*pairs: tuple[float, float]) -> TimingReport:
    layers = tuple(
        TimingEntry(kind, 1, ms, ms, ms, 20, f"layer{index}")
        for index, pair in enumerate(pairs)
        for kind, ms in zip(("float", "integer"), pair, strict=True)
    )
    return timed(("float", 1, 1, 1), ("integer", 2, 2, 2), layers=layers)


def test_the_fixed_cost_is_read_from_the_quickest_layers() -> None:
    why = why_slower(layered((0.05, 0.2), (1.0, 0.7)), 1)
    assert why is not None
    assert "none takes less than 0.2 ms, in float the smallest takes 50 µs" in why.text
    assert "1 of 2 layers loses time: layer0 (0.15 ms)." in why.text
    assert "together take 0.9 ms on integers, no more than the 1.05 ms in float" in why.text
    assert "batch size" not in why.text


def test_a_fixed_cost_that_the_numbers_do_not_show_is_not_claimed() -> None:
    why = why_slower(layered((0.2, 0.1), (1.0, 1.5)), 1)
    assert why is not None
    assert "fixed cost" not in why.text
    assert "layer1 (0.5 ms)" in why.text
    assert "All layers together take 1.6 ms on integers and 1.2 ms in float." in why.text


def test_where_no_layer_is_slower_the_time_goes_elsewhere() -> None:
    why = why_slower(layered((0.2, 0.1), (1.0, 0.9)), 1)
    assert why is not None
    assert "No single layer is clearly slower. All layers together take 1 ms" in why.text
    assert "the rest is spent between the layers" in why.text
    assert "fixed cost" not in why.text


def test_the_three_worst_of_many_losers_are_named_the_worst_first() -> None:
    why = why_slower(layered((1, 1.1), (1, 1.4), (1, 1.2), (1, 1.3)), 1)
    assert why is not None
    assert "4 of 4 layers lose time; most of it: layer1 (0.4 ms), layer3 (0.3 ms), layer2" in (
        why.text
    )
    assert "layer0" not in why.text


def test_no_layer_times_no_reason() -> None:
    assert why_slower(timed(("float", 1, 1, 1), ("integer", 2, 2, 2)), 1) is None


@pytest.mark.parametrize("simulated", [8.0, 50.0])
def test_simulated_execution_is_never_sold_as_a_speed_up(simulated: float) -> None:
    timing = timed(("float", 9, 10, 11), ("simulated", simulated, simulated, simulated))
    verdict = find(timing_verdicts(timing, 1), "Simulated")
    assert verdict.tone == INFO
    assert "never a speed-up" in verdict.subject
    assert f"{simulated / 10:.2f} × the time of the baseline" in verdict.text
    assert "slower than float by design" in verdict.text
    assert "times as fast" not in verdict.text


def test_the_statement_is_made_without_a_float_time_too() -> None:
    words = timing_words(timed(("simulated", 7, 8, 9), ("integer", 1, 2, 3)), 1)
    assert "never a speed-up" in words
    assert "no float time to compare it with" in words


def test_a_model_that_cannot_run_on_integers_says_why() -> None:
    timing = timed(("float", 1, 1, 1), notes=("The Tiny holds no quantized layer.",))
    verdict = find(timing_verdicts(timing, 1), "On integers: not possible")
    assert verdict.text == "The Tiny holds no quantized layer."


def test_a_model_that_was_not_lowered_says_why() -> None:
    timing = with_integer_times(make_report(), is_lowered=False).timing
    assert timing is not None
    verdict = find(timing_verdicts(timing, 64), "Integer int8 (lowered): not possible")
    assert "A branch is traced." in verdict.text


def test_without_a_layer_on_integers_nothing_is_said_about_speed() -> None:
    executions = (LayerExecution("a", "weights_only", reason="Its input stays float."),)
    timing = timed(("float", 9, 10, 11), ("integer", 1, 1, 1), executions=executions)
    (verdict,) = timing_verdicts(timing, 1)
    assert verdict.tone == INFO
    assert "no layer multiplies integers" in verdict.subject
    assert verdict.text.startswith("Its input stays float.")
    assert "fast" not in verdict.text


def test_how_far_integers_lie_from_the_simulation_is_said_for_each_execution() -> None:
    verdict = gap_verdict(TIMING)
    assert verdict is not None
    assert verdict.text.startswith(
        "They differ by this share of the quantization error: integer int8 2.4 %; integer int8 "
        "(lowered) 12 % (root mean square of integer minus simulated"
    )
    assert "on 64 samples" in verdict.text


def test_the_gap_of_each_output_is_named() -> None:
    gaps = (
        ExecutionGap("integer", "boxes", 8, 0.1, 0.4, 1.0),
        ExecutionGap("integer", "scores", 8, 0.1, 0.0, 1.0),
    )
    verdict = gap_verdict(replace(TIMING, gaps=gaps))
    assert verdict is not None
    assert "integer int8 boxes 25 %, scores more than all (there is none) (root" in verdict.text


def test_a_run_without_gaps_says_that_and_why() -> None:
    assert gap_verdict(NOT_ON_INTEGERS) is None
    for notes in ((), (f"{NOT_COMPARED}: the model draws random numbers.",)):
        verdict = gap_verdict(replace(TIMING, gaps=(), notes=(*notes, "Something else.")))
        assert verdict is not None
        assert verdict.text.startswith("Not measured in this run.")
        assert ("random numbers" in verdict.text) == bool(notes)
        assert was_compared(replace(TIMING, gaps=(), notes=notes)) == bool(notes)
        assert "Something else" not in verdict.text
