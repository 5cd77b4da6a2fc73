"""Verdicts: each sentence is right for the numbers it rests on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dashboard.facts.diagnosis.verdicts import (
    BAD,
    GOOD,
    INFO,
    WATCH,
    Verdict,
    better_range,
    cause,
    clipping_share,
    code_use,
    codes_for_most,
    layer_verdicts,
    own_or_inherited,
    standing,
    tensor_verdicts,
    tone_of_sqnr,
    weak_channel,
    weight_or_input,
)
from quant_engine.report import (
    CodeUsage,
    ErrorMetrics,
    LayerReport,
    ModelReport,
    RangeChoice,
    TensorReport,
)
from quant_engine.scheme import TensorScheme
from tests.dashboard.factories import (
    EXACT_LAYER,
    EXCLUDED_LAYER,
    WIDE_LAYER,
    make_channels,
    make_partial_report,
    make_relative,
    make_report,
    replace_layer,
)

LAYER = "layer2.0.conv1"


def error(sqnr_db: float = 40.0, **changes: Any) -> ErrorMetrics:
    nmse = 10 ** (-sqnr_db / 10)
    fields = {
        "count": 1000,
        "sqnr_db": sqnr_db,
        "nmse": nmse,
        "cosine": 1.0,
        "mse": nmse,
        "max_abs_error": 0.1,
        "rmse_over_scale": 0.289,
        "rounding_mse": nmse,
        "clipping_mse": 0.0,
        "clipped_fraction": 0.0,
    }
    return ErrorMetrics(**(fields | changes))


def clipped(sqnr_db: float, share: float, fraction: float) -> ErrorMetrics:
    whole = error(sqnr_db)
    return replace(
        whole,
        rounding_mse=(1 - share) * whole.mse,
        clipping_mse=share * whole.mse,
        clipped_fraction=fraction,
    )


def tensor(**changes: Any) -> TensorReport:
    base = make_report("int8_per_tensor").layer(LAYER).weight
    assert base is not None
    return replace(base, **changes)


def layer(name: str = LAYER, **changes: Any) -> LayerReport:
    return replace(make_report().layer(name), **changes)


def said(verdict: Verdict | None) -> Verdict:
    assert verdict is not None
    return verdict


# --- Rounding or clipping? ------------------------------------------------------------------------


def test_clipping_that_makes_most_of_the_error_is_named_with_its_share() -> None:
    verdict = said(cause(tensor(error=clipped(15.0, 0.83, 0.0021)), "Weights"))

    assert verdict.tone == BAD
    assert verdict.subject == "Weights: rounding or clipping?"
    assert verdict.text == (
        "Clipping makes 83 % of the error energy: 0.21 % of the values lie beyond the grid. "
        "Pooled SQNR 15.0 dB."
    )


def test_rounding_that_makes_most_of_the_error_is_named_with_its_share() -> None:
    verdict = said(cause(tensor(error=clipped(25.0, 0.1, 0.001)), "Inputs"))

    assert verdict.tone == WATCH
    assert verdict.text.startswith("Mostly rounding, 90 % of the error energy; clipping makes 10 %")


def test_pure_rounding_compares_with_the_ideal() -> None:
    verdict = said(cause(tensor(error=error(45.0)), "Weights"))

    assert verdict.tone == GOOD
    assert "nothing is clipped" in verdict.text
    assert "RMS 0.289 LSB; ideal rounding gives 0.289." in verdict.text


def test_many_zeros_explain_a_small_rms() -> None:
    zeros = CodeUsage(-127, tuple(500 if code == 0 else 4 for code in range(-127, 128)))
    verdict = said(cause(tensor(error=error(45.0), codes=zeros, zero_point=(0,)), "Inputs"))

    assert "exactly 0" in verdict.text


def test_no_error_and_no_split() -> None:
    exact = error(math.inf, mse=0.0, nmse=0.0, rounding_mse=0.0)
    assert said(cause(tensor(error=exact), "Weights")).tone == GOOD
    assert cause(tensor(error=error(clipping_mse=None)), "Weights") is None
    assert clipping_share(exact) is None


@pytest.mark.parametrize(
    ("sqnr_db", "tone"), [(35.0, GOOD), (34.9, WATCH), (20.0, WATCH), (19.9, BAD), (-math.inf, BAD)]
)
def test_tones_follow_the_sqnr(sqnr_db: float, tone: str) -> None:
    assert tone_of_sqnr(sqnr_db) == tone


# --- Codes ----------------------------------------------------------------------------------------


def test_codes_that_few_values_use_are_wasted() -> None:
    counts = tuple(
        1000 if abs(code) < 20 else (1 if abs(code) == 127 else 0) for code in range(-127, 128)
    )
    verdict = said(code_use(tensor(codes=CodeUsage(-127, counts)), "Weights"))

    assert verdict.tone == WATCH
    assert verdict.text.startswith("41 of 255 codes occur; 99 % of the values share 39 codes.")
    assert "A few large values stretch the range" in verdict.text


def test_values_without_a_sign_waste_half_of_a_symmetric_grid() -> None:
    counts = (0,) * 127 + (1000,) * 60 + (0,) * 68
    relu = tensor(codes=CodeUsage(-127, counts), lo=0.0, scheme=TensorScheme())

    assert "asymmetric scheme" in said(code_use(relu, "Inputs")).text


def test_codes_in_even_use_are_fine_and_few_values_are_not_judged() -> None:
    even = said(code_use(tensor(codes=CodeUsage(-127, (10,) * 255)), "Weights"))
    assert even.tone == GOOD
    assert code_use(tensor(codes=CodeUsage(-127, (0,) * 254 + (9,))), "Weights") is None
    assert code_use(tensor(codes=CodeUsage(-127, (0,) * 255)), "Weights") is None


def test_codes_for_most_counts_the_most_frequent_first() -> None:
    assert codes_for_most(tensor(codes=CodeUsage(0, (1, 98, 1, 900)))) == 2
    assert codes_for_most(tensor(codes=CodeUsage(0, (25, 25, 25, 25)))) == 4


# --- Ranges ---------------------------------------------------------------------------------------


def choice(observer: str, sqnr_db: float, hi: float = 1.0) -> RangeChoice:
    return RangeChoice(observer, -hi, hi, hi / 127, 0, sqnr_db, 0.001)


def test_a_better_rule_is_named_with_both_numbers() -> None:
    choices = (choice("minmax", 30.0, 4.0), choice("mse", 36.5, 2.0))
    small = (choice("minmax", 30.0, 4.0), choice("mse", 31.5, 2.0))
    assert said(better_range(tensor(range_choices=small), "Inputs")).tone == INFO
    verdict = said(better_range(tensor(range_choices=choices), "Inputs"))

    assert verdict.tone == WATCH
    assert "smallest error promises 36.5 dB against 30.0 dB with min–max" in verdict.text
    assert "−2 to 2 instead of −4 to 4" in verdict.text
    assert "clips 0.1 %" in verdict.text


@pytest.mark.parametrize("other", [30.4, 29.0, math.nan])
def test_no_rule_that_is_hardly_better_is_recommended(other: float) -> None:
    choices = (choice("minmax", 30.0), choice("mse", other))

    assert said(better_range(tensor(range_choices=choices), "Inputs")).tone == GOOD


def test_exact_rules_and_missing_rules() -> None:
    both = (choice("minmax", math.inf), choice("mse", math.inf))
    assert said(better_range(tensor(range_choices=both), "Inputs")).tone == GOOD
    assert better_range(tensor(range_choices=()), "Inputs") is None


# --- Channels -------------------------------------------------------------------------------------


def test_the_weak_channel_is_named_with_the_reason() -> None:
    channels = make_channels(
        lo=(-1.0, -0.8, -0.01, -0.9), hi=(1.0, 0.9, 0.02, 0.7), sqnr_db=(45, 44, 12, 43)
    )
    verdict = said(weak_channel(tensor(channels=channels), "Weights"))

    assert verdict.tone == BAD
    assert verdict.text == (
        "Channel 2 is the weakest of 4: 12.0 dB, the median is 43.5 dB. Its range is 50 times "
        "smaller than that of channel 0, and both share one scale. Scales per channel help."
    )


def test_with_own_scales_nobody_is_told_to_use_them() -> None:
    channels = make_channels((-1.0, -1.0, -0.01), (1.0, 1.0, 0.02), (45.0, 44.0, 12.0))
    scheme = TensorScheme(granularity="per_channel")
    verdict = said(weak_channel(tensor(channels=channels, scheme=scheme), "Weights"))

    assert "Channel 2" in verdict.text
    assert "share one scale" not in verdict.text


def test_lost_channels_are_counted_even_where_the_median_is_lost_too() -> None:
    channels = make_channels(
        (-1.0, -0.01, -0.01, -0.01), (1.0, 0.01, 0.01, 0.01), (45.0, 0.0, 0.5, 1.0)
    )
    verdict = said(weak_channel(tensor(channels=channels), "Weights"))

    assert verdict.tone == BAD
    assert "3 channels are below 20 dB." in verdict.text
    assert "100 times smaller than that of channel 0" in verdict.text


def test_even_channels_and_exact_channels() -> None:
    even = make_channels((-1.0, -1.0), (1.0, 1.0), (41.0, 40.0))
    assert "None stands out" in said(weak_channel(tensor(channels=even), "Weights")).text
    exact = make_channels((-1.0, -1.0), (1.0, 1.0), (math.inf, math.inf))
    assert said(weak_channel(tensor(channels=exact), "Weights")).tone == GOOD
    one_bad = make_channels((-1.0, 0.0), (1.0, 0.0), (math.inf, -math.inf))
    assert said(weak_channel(tensor(channels=one_bad), "Weights"))
    assert weak_channel(tensor(channels=None), "Inputs") is None


@pytest.mark.parametrize(("lowest", "stands_out"), [(35.1, False), (35.0, True)])
def test_a_channel_stands_out_from_ten_db_below_the_median(lowest: float, stands_out: bool) -> None:
    channels = make_channels((-1.0,) * 3, (1.0,) * 3, (45.0, 45.0, lowest))
    text = said(weak_channel(tensor(channels=channels), "Weights")).text

    assert ("None stands out" not in text) == stands_out


@pytest.mark.parametrize(("promised", "is_better"), [(29.9, False), (30.0, True)])
def test_a_scale_per_channel_is_advised_from_ten_db_of_gain_on(
    promised: float, is_better: bool
) -> None:
    channels = make_channels((-1.0,) * 2, (1.0,) * 2, (20.0, 20.0))
    weight = replace(tensor(channels=channels), per_channel_sqnr_db=promised)
    verdict = better_range(weight, "Weights")

    assert ("per channel promises" in (verdict.text if verdict else "")) == is_better


# --- The layer as a whole -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "accumulated", "words"),
    [
        (40.0, 41.0, "Its own"),
        (40.0, 39.0, "Mostly its own, 79.4 %"),
        (40.0, 30.0, "Mostly inherited: this layer alone would make 10 %"),
    ],
)
def test_own_error_is_told_from_inherited(local: float, accumulated: float, words: str) -> None:
    own, total = error(local), error(accumulated)
    judged = layer(
        local_error=own,
        local_relative=make_relative(own),
        accumulated_error=total,
        accumulated_relative=make_relative(total),
    )
    verdict = said(own_or_inherited(judged, make_report()))

    assert verdict.text.startswith(words)
    assert verdict.tone == tone_of_sqnr(accumulated)


def test_a_float_layer_passes_on_what_it_gets() -> None:
    verdict = said(own_or_inherited(layer(EXCLUDED_LAYER), make_report()))

    assert verdict.text.startswith("Inherited: the layer itself is float")


def test_no_accumulated_error_is_good_and_an_unknown_one_is_not_judged() -> None:
    none = error(math.inf, mse=0.0, nmse=0.0)
    assert said(own_or_inherited(layer(accumulated_error=none), make_report())).tone == GOOD
    assert own_or_inherited(layer(accumulated_error=None), make_report()) is None
    hopeless = error(-math.inf, nmse=math.inf)
    nothing = replace(make_relative(error(40.0)), rms=0.0, flat_channels=1)  # 0 all along in float
    odd = layer(
        local_error=hopeless,
        accumulated_error=hopeless,
        local_relative=nothing,
        accumulated_relative=nothing,
    )
    assert said(own_or_inherited(odd, make_report())).tone == BAD


@pytest.mark.parametrize(
    ("weight_db", "input_db", "words"),
    [
        (30.0, 45.0, "The weights cost more"),
        (45.0, 30.0, "The inputs cost more"),
        (40.0, 42.0, "Both cost about the same"),
        (math.inf, math.inf, "Neither"),
    ],
)
def test_weights_are_weighed_against_inputs(weight_db: float, input_db: float, words: str) -> None:
    judged = layer(
        weight=tensor(error=error(weight_db)), input=tensor(error=error(input_db), channels=None)
    )
    verdict = said(weight_or_input(judged, make_report()))

    assert verdict.text.startswith(words)
    assert weight_or_input(replace(judged, input=None), make_report()) is None


@pytest.mark.parametrize(
    ("weight_nmse", "words"), [(4e-4, "Both cost about the same"), (4.01e-4, "The weights cost")]
)
def test_one_side_dominates_above_four_times_the_energy(weight_nmse: float, words: str) -> None:
    sides = [replace(error(40.0), nmse=nmse) for nmse in (weight_nmse, 1e-4)]
    for first, second, expected in (
        (*sides, words),
        (*reversed(sides), words.replace("weights", "inputs")),
    ):
        judged = layer(weight=tensor(error=first), input=tensor(error=second, channels=None))
        assert said(weight_or_input(judged, make_report())).text.startswith(expected)


def test_an_output_far_below_weights_and_inputs_points_to_the_channels() -> None:
    judged = layer(
        weight=tensor(error=error(43.0)), input=tensor(error=error(38.0)), local_error=error(15.7)
    )
    verdict = said(weight_or_input(judged, make_report()))

    assert verdict.tone == WATCH
    assert "yet the output has only 15.7 dB" in verdict.text
    near = replace(judged, local_error=error(29.0))
    assert said(weight_or_input(near, make_report())).tone == INFO


def report_with(local: dict[str, float]) -> ModelReport:
    report = make_report()
    for name in [x.name for x in report.layers]:
        changed = error(local[name]) if name in local else None
        relative = None if changed is None else make_relative(changed)
        report = replace_layer(report, name, local_error=changed, local_relative=relative)
    return report


def test_the_worst_layer_stands_out_only_when_it_is_bad() -> None:
    bad = report_with({LAYER: 18.0, "conv1": 40.0, "head.0": 41.0})
    verdict = said(standing(bad.layer(LAYER), bad))
    assert verdict.tone == WATCH
    assert verdict.text.startswith(
        "Rank 1 of 3 by its own error (1 is worst): 12.6 % of its output, each "
    )
    assert "Quantizing it saves 13.7 kB" in verdict.text
    assert said(standing(bad.layer("head.0"), bad)).text.startswith("Rank 3 of 3")
    fine = report_with({LAYER: 48.0, "conv1": 50.0})
    assert said(standing(fine.layer(LAYER), fine)).tone == INFO
    assert standing(bad.layer(EXCLUDED_LAYER), bad) is None


@pytest.mark.parametrize("preset", ["int8_per_channel", "int8_per_tensor", "int4_weights"])
def test_every_layer_of_every_report_can_be_judged(preset: str) -> None:
    for report in (make_report(preset), make_partial_report()):
        for judged in report.layers:
            verdicts = list(layer_verdicts(judged, report))
            for part, subject in ((judged.weight, "Weights"), (judged.input, "Inputs")):
                if part is not None:
                    verdicts += tensor_verdicts(part, subject)
            for verdict in verdicts:
                assert verdict.tone in (GOOD, WATCH, BAD, INFO)
                assert verdict.text.endswith(".")
                assert "nan" not in verdict.text.lower().split()
                assert "inf" not in verdict.text.split()


def test_the_wide_layer_fails_per_tensor_and_not_per_channel() -> None:
    def channel_tone(preset: str) -> str:
        weight = make_report(preset).layer(WIDE_LAYER).weight
        assert weight is not None
        return said(weak_channel(weight, "Weights")).tone

    assert channel_tone("int8_per_tensor") == BAD
    assert channel_tone("int8_per_channel") == GOOD
    exact = make_report().layer(EXACT_LAYER).weight
    assert exact is not None
    assert {v.tone for v in tensor_verdicts(exact, "Weights")} == {GOOD}
