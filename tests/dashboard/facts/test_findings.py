"""Every rule of the diagnosis at the edges of its threshold: nothing below it, a finding at it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dashboard.facts.diagnosis import findings as rules
from dashboard.facts.diagnosis import thresholds as limits
from dashboard.facts.diagnosis.culprit import MEASURED, OutputEffects
from dashboard.facts.diagnosis.findings import Finding, find_findings, not_judged
from dashboard.facts.diagnosis.thresholds import GOOD_DB, LOST_SHARE, OUTLIER
from quant_engine.report import (
    ErrorMetrics,
    InputChannels,
    LayerReport,
    ModelReport,
    RangeChoice,
    RelativeErrors,
    TensorReport,
    ValueHistogram,
)
from quant_engine.scheme import TensorScheme
from tests.dashboard.factories import make_report, replace_layer

NAME = "layer2.0.conv1"


def error(sqnr_db: float, clipping: float = 0.0) -> ErrorMetrics:
    """An error with this SQNR, of which clipping makes a share."""
    mse = 10 ** (-sqnr_db / 10)
    clean = ErrorMetrics(100, sqnr_db, mse, 1.0, mse, 1.0)
    return replace(
        clean,
        rmse_over_scale=0.289,
        rounding_mse=(1 - clipping) * mse,
        clipping_mse=clipping * mse,
        clipped_fraction=0.01,
    )


def relative(rms: float) -> RelativeErrors:
    return RelativeErrors(-16, (0,), 0, 0, 0, 1, 0, rms, 0, 0.0)


def healthy(preset: str = "int8_per_tensor") -> ModelReport:
    """A report whose layer has nothing wrong by any rule."""
    report = make_report(preset)
    layer = report.layer(NAME)
    return with_parts(
        replace_layer(
            report,
            NAME,
            input_channels=None,
            local_error=error(GOOD_DB + 1),
            local_relative=relative(0.01),
        ),
        weight={"range_choices": (), "channels": plain_channels(layer), "error": error(40.0)},
        input={"range_choices": (), "error": error(40.0)},
    )


def plain_channels(layer: LayerReport) -> Any:
    assert layer.weight is not None
    assert layer.weight.channels is not None
    count = len(layer.weight.channels.lo)
    return replace(
        layer.weight.channels, became_zero=(0,) * count, sqnr_db=(40.0,) * count, channel_size=9
    )


def with_parts(report: ModelReport, **parts: dict[str, Any]) -> ModelReport:
    """The report with fields of the layer's weight and input changed."""
    layer = report.layer(NAME)
    changed: dict[str, TensorReport] = {}
    for part, fields in parts.items():
        tensor = layer.weight if part == "weight" else layer.input
        assert tensor is not None
        changed[part] = replace(tensor, **fields)
    return replace_layer(report, NAME, **changed)


def found(report: ModelReport, effects: OutputEffects | None = None) -> list[str]:
    return [finding.rule for finding in find_findings(report.layer(NAME), report, effects)]


def only(report: ModelReport, effects: OutputEffects | None = None) -> Finding:
    (finding,) = find_findings(report.layer(NAME), report, effects)
    return finding


def lost(report: ModelReport, count: int, *, is_silent: bool = False) -> ModelReport:
    """The report with weights lost in the first channel and those after it, one left in each."""
    channels = report.layer(NAME).weight.channels  # type: ignore[union-attr]
    assert channels is not None
    zeros, sqnrs = [0] * len(channels.lo), list(channels.sqnr_db)
    for index in range(len(zeros)):
        zeros[index] = min(count, channels.channel_size - 1)
        count -= zeros[index]
    if is_silent:
        zeros[-1], sqnrs[-1] = channels.channel_size, 0.0
    changed = replace(channels, became_zero=tuple(zeros), sqnr_db=tuple(sqnrs))
    return with_parts(report, weight={"channels": changed})


def choice(observer: str, sqnr_db: float, clipped: float) -> RangeChoice:
    return RangeChoice(observer, -1.0, 1.0, 0.1, 0, sqnr_db, clipped)


def test_a_healthy_layer_has_no_finding() -> None:
    assert found(healthy()) == []


def test_a_scale_is_too_coarse_from_a_share_of_lost_weights_on_or_with_a_silent_channel() -> None:
    needed = math.ceil(LOST_SHARE * 32 * 9)

    assert found(lost(healthy(), needed - 1)) == []
    finding = only(lost(healthy(), needed))
    assert finding.rule == "coarse_scale"
    assert finding.figure == f"{needed} of 288 weights became 0"
    assert finding.remedies == (rules.EQUALIZE, rules.PER_CHANNEL)
    assert "GPTQ" in finding.will_not_help
    assert "1 of 32 channels is all 0" in only(lost(healthy(), 0, is_silent=True)).figure


def test_few_bits_lose_weights_without_a_coarse_scale() -> None:
    report = healthy()
    scheme = replace(report.layer(NAME).weight.scheme, bits=limits.FEW_BITS)  # type: ignore[union-attr]
    report = with_parts(lost(report, 100), weight={"scheme": scheme})

    assert found(report) == []
    assert found(with_parts(report, weight={"per_channel_sqnr_db": 50.0})) == ["coarse_scale"]


@pytest.mark.parametrize("gap", [limits.CHANNEL_GAP_DB - 0.1, limits.CHANNEL_GAP_DB])
def test_a_scale_is_too_coarse_where_one_per_channel_promises_more(gap: float) -> None:
    report = with_parts(healthy(), weight={"per_channel_sqnr_db": 40.0 + gap})

    assert found(report) == (["coarse_scale"] if gap == limits.CHANNEL_GAP_DB else [])


def test_a_scale_per_channel_is_never_shared() -> None:
    assert found(lost(healthy("int8_per_channel"), 0, is_silent=True)) == []


@pytest.mark.parametrize("factor", [OUTLIER - 0.1, OUTLIER])
def test_input_channels_take_the_range_from_their_factor_on(factor: float) -> None:
    seen = InputChannels(axis=-3, lo=(0.0,) * 16, hi=(1.0,) * 15 + (factor,))
    report = replace_layer(healthy(), NAME, input_channels=seen)

    assert found(report) == (["input_channels"] if factor == OUTLIER else [])
    if factor == OUTLIER:
        assert only(report).figure == "Input channel 15: up to 8 × the median"
        assert only(report).remedies[0] == rules.SMOOTH
        assert found(replace_layer(report, NAME, input=None)) == []


@pytest.mark.parametrize(
    ("lost_inputs", "is_found"), [(None, False), (0, False), (1, True)], ids=str
)
def test_weights_of_single_inputs_are_lost_from_a_share_of_them_on(
    lost_inputs: int | None, is_found: bool
) -> None:
    report = healthy("int8_per_channel")  # 16 input channels: 5 % of them is less than 1
    channels = report.layer(NAME).weight.channels  # type: ignore[union-attr]
    assert channels is not None
    changed = replace(channels, lost_inputs=lost_inputs)
    report = with_parts(report, weight={"channels": changed})

    assert found(report) == (["unequal_columns"] if is_found else [])
    wide = replace_layer(report, NAME, weight_shape=(32, 20 * (lost_inputs or 0) + 1, 3, 3))
    assert found(wide) == []


@pytest.mark.parametrize("share", [limits.SHIFT - 0.001, limits.SHIFT])
def test_a_shift_is_systematic_from_a_share_of_the_error_on(share: float) -> None:
    seen = replace(relative(0.1), shift=share)
    fine = replace_layer(healthy(), NAME, local_relative=seen)
    report = replace_layer(fine, NAME, local_error=error(GOOD_DB - 0.1))

    assert found(fine) == []
    assert found(report) == (["shift"] if share == limits.SHIFT else [])


@pytest.mark.parametrize("part", ["weight", "input"])
@pytest.mark.parametrize("gain", [limits.RANGE_GAIN_DB - 0.1, limits.RANGE_GAIN_DB])
def test_outlier_values_are_found_where_cutting_them_off_gains(part: str, gain: float) -> None:
    choices = (choice("minmax", 30.0, 0.0), choice("mse", 30.0 + gain, 0.001))
    counts = (0,) * 47 + (500, 500) + (0,) * 47
    values = ValueHistogram(-48.0, 48.0, counts, counts, 0, 1, 0, 1)
    fields = {"range_choices": choices, "values": values, "lo": -1.0, "hi": 60.0}
    report = with_parts(healthy(), **{part: fields})

    assert found(report) == ([f"{part}_outliers"] if gain == limits.RANGE_GAIN_DB else [])
    if gain == limits.RANGE_GAIN_DB:
        # 1 of 1,001 values lies beyond; bin centers ±0.5 have σ 0.5 and mean 0.
        assert "the largest at 120 σ" in only(report).figure
        assert only(report).figure.startswith("0.1 % of the values lie beyond 6 σ")


def test_a_better_range_that_cuts_off_no_more_is_no_outlier() -> None:
    choices = (choice("minmax", 30.0, 0.0), choice("mse", 40.0, 0.0))

    assert found(with_parts(healthy(), input={"range_choices": choices})) == []


@pytest.mark.parametrize("part", ["weight", "input"])
def test_clipping_is_found_from_half_of_the_error_on(part: str) -> None:
    below, at = (error(20.0, limits.CLIPPED_SHARE - d) for d in (0.01, 0.0))

    assert found(with_parts(healthy(), **{part: {"error": below}})) == []
    report = with_parts(healthy(), **{part: {"error": at}})
    assert only(report).rule == f"{part}_clipping"
    assert only(report).remedies == ()
    assert "No range estimator" not in only(report).text  # none was tried
    tried = {"error": at, "range_choices": (choice("minmax", 20.0, 0.01),)}
    text = only(with_parts(healthy(), **{part: tried})).text
    assert "No range estimator reaches further" in text
    fine = error(GOOD_DB, limits.CLIPPED_SHARE)
    assert found(with_parts(healthy(), **{part: {"error": fine}})) == []


def test_clipping_points_to_a_range_that_reaches_further() -> None:
    choices = (choice("minmax", 20.0, 0.01), choice("mse", 18.0, 0.0))
    report = with_parts(healthy(), input={"error": error(20.0, 0.9), "range_choices": choices})

    assert only(report).remedies == (rules.INPUT_RANGE,)


@pytest.mark.parametrize(
    ("lo", "hi", "is_found"),
    [(-0.1, 1.0, True), (-0.101, 1.0, False), (0.0, 1.0, True), (-1.0, 0.1, True), (0, 0, False)],
)
def test_one_sided_inputs_are_found_up_to_a_share_of_the_longer_side(
    lo: float, hi: float, is_found: bool
) -> None:
    report = with_parts(healthy("int8_symmetric"), input={"lo": lo, "hi": hi})

    assert found(report) == (["one_sided"] if is_found else [])
    asymmetric = with_parts(healthy("int8_per_tensor"), input={"lo": lo, "hi": hi})
    assert found(asymmetric) == []


@pytest.mark.parametrize(
    ("bits", "sqnr_db", "clipping", "is_found"),
    [
        (limits.FEW_BITS, GOOD_DB - 0.1, 0.0, True),
        (limits.FEW_BITS + 1, GOOD_DB - 0.1, 0.0, False),
        (limits.FEW_BITS, GOOD_DB, 0.0, False),
        (limits.FEW_BITS, GOOD_DB - 0.1, limits.CLIPPED_SHARE, False),
    ],
)
def test_rounding_is_found_at_few_bits_without_another_cause(
    bits: int, sqnr_db: float, clipping: float, is_found: bool
) -> None:
    report = healthy()
    scheme = replace(report.layer(NAME).weight.scheme, bits=bits)  # type: ignore[union-attr]
    report = with_parts(report, weight={"scheme": scheme, "error": error(20.0, clipping)})
    report = replace_layer(report, NAME, local_error=error(sqnr_db))

    assert ("rounding" in found(report)) == is_found
    if is_found:
        assert only(report).remedies == (
            rules.GPTQ,
            rules.ADAROUND,
            rules.BIAS,
            rules.MORE_BITS,
        )


def effects(mine: float) -> OutputEffects:
    return OutputEffects(MEASURED, {NAME: mine, "conv1": 1.0 - mine})


@pytest.mark.parametrize("share", [limits.LEANING_SHARE - 0.01, limits.LEANING_SHARE])
def test_the_answer_leans_on_a_layer_from_a_share_of_all_effects_on(share: float) -> None:
    report = healthy()

    assert found(report, effects(share)) == (["leaning"] if share >= limits.LEANING_SHARE else [])
    small = {name: value * 0.99e-3 / share for name, value in effects(share).values.items()}
    assert found(report, OutputEffects(MEASURED, small)) == []
    loud = replace_layer(report, NAME, local_relative=relative(0.5))
    assert found(loud, effects(share)) == []


@pytest.mark.parametrize("share", [limits.INHERITED_SHARE - 0.001, limits.INHERITED_SHARE + 0.001])
def test_an_error_is_inherited_up_to_a_share_of_its_own(share: float) -> None:
    total = limits.DAMAGED + 0.01
    own = total * math.sqrt(share)
    report = replace_layer(healthy(), NAME, accumulated_relative=relative(total))
    report = replace_layer(report, NAME, local_relative=relative(own))
    report = replace_layer(report, "conv1", local_relative=relative(0.3))
    report = replace_layer(report, "layer1.0.conv1", local_relative=relative(0.2))
    report = replace_layer(report, "fc", local_relative=relative(0.9))  # runs after it

    if share > limits.INHERITED_SHARE:
        assert found(report) == []
        return
    assert only(report).origin == "conv1"
    assert found(replace_layer(report, NAME, accumulated_relative=relative(limits.DAMAGED))) == []
    layer = report.layer(NAME)
    other = rules.inherited(layer, report, {NAME: ("layer1.0.conv1",)})
    assert other is not None
    assert other.origin == "layer1.0.conv1"
    assert rules.inherited(layer, report, {NAME: ()}) is None


def test_what_is_not_judged_is_said() -> None:
    report = healthy()
    layer = report.layer(NAME)

    missing = " ".join(not_judged(layer, None))

    assert "input channels" in missing
    assert "every channel has a range of its own" in missing
    assert "neither measured nor predicted" in missing
    assert "neither" not in " ".join(not_judged(layer, effects(0.5)))
    assert layer.weight is not None
    grouped = TensorScheme(granularity="per_group", group_size=32)
    layer = replace(layer, weight=replace(layer.weight, scheme=grouped))
    assert "every group of 32 weights has a range of its own" in " ".join(not_judged(layer, None))


def test_every_finding_has_a_title_and_says_its_rule() -> None:
    report = lost(healthy(), 0, is_silent=True)
    finding = only(report)

    assert finding.title == rules.TITLES[finding.rule]
    assert "(rule:" in finding.text
