"""Which remedy a finding points to, at the edges of its rule; and when a remedy counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.facts.causes import LOST_SHARE, OUTLIER
from dashboard.facts.comparison import degradation_text, effect
from dashboard.facts.remedies import (
    FEW_BITS,
    describe_treatment,
    offers,
    repair_recipe,
    treatments_of,
)
from quant_engine.report import InputChannels, LayerReport, ModelReport, OutputReport, Treatment
from quant_engine.scheme import BiasCorrection, CrossLayerEqualization, SmoothQuant
from tests.dashboard.factories import make_report, replace_layer

NAME = "layer2.0.conv1"
TARGETS = {
    "cross_layer_equalization": (("stem", NAME), (NAME, "layer2.0.conv2")),
    "smooth_quant": ((NAME, "other"),),
}


def layer_of(report: ModelReport) -> LayerReport:
    return report.layer(NAME)


def report_with(**fields: object) -> ModelReport:
    """A report whose layer has neither lost weights nor outlier inputs but what is given."""
    report = make_report()
    layer = report.layer(NAME)
    assert layer.weight is not None
    assert layer.weight.channels is not None
    channels = replace(layer.weight.channels, became_zero=(0,) * len(layer.weight.channels.lo))
    channels = replace(channels, channel_size=9)
    plain = {"weight": replace(layer.weight, channels=channels), "input_channels": None}
    return replace_layer(report, NAME, **{**plain, **fields})


def lost(report: ModelReport, share: float) -> ModelReport:
    """The report with a share of the layer's weights, rounded up, lost in its first channels."""
    layer = report.layer(NAME)
    assert layer.weight is not None
    assert layer.weight.channels is not None
    count = len(layer.weight.channels.lo)
    left = -int(-share * count * layer.weight.channels.channel_size // 1)
    each = [0] * count
    for channel in range(count):
        each[channel] = min(left, layer.weight.channels.channel_size - 1)
        left -= each[channel]
    channels = replace(layer.weight.channels, became_zero=tuple(each))
    return replace_layer(report, NAME, weight=replace(layer.weight, channels=channels))


def kinds(report: ModelReport) -> list[str]:
    return [offer.key for offer in offers(layer_of(report), report, TARGETS)]


def test_without_a_finding_there_is_no_offer() -> None:
    report = report_with()

    assert kinds(report) == []
    assert repair_recipe(report, {}) == report.recipe


def test_lost_weights_point_to_equalization_from_their_share_on() -> None:
    assert kinds(lost(report_with(), LOST_SHARE - 0.01)) == []

    report = lost(report_with(), LOST_SHARE)

    found = offers(layer_of(report), report, TARGETS)
    assert [offer.key for offer in found][:2] == ["equalize_stem", "equalize_layer2.0.conv2"]
    assert found[0].label == "Equalize with `stem` and compare"
    assert found[0].recipe == report.recipe.with_remedy(
        CrossLayerEqualization(layers=("stem", NAME))
    )
    assert found[0].whole == report.recipe.with_remedy(CrossLayerEqualization())
    assert "weights became 0" in found[0].why


@pytest.mark.parametrize("factor", [OUTLIER * 0.99, OUTLIER])
def test_outlier_inputs_point_to_smoothing_from_their_factor_on(factor: float) -> None:
    seen = InputChannels(axis=-3, lo=(0.0,) * 16, hi=(1.0,) * 15 + (factor,))
    report = report_with(input_channels=seen)

    found = offers(layer_of(report), report, TARGETS)

    assert [offer.key for offer in found] == (["smooth"] if factor >= OUTLIER else [])
    if found:
        assert found[0].recipe.remedies == (SmoothQuant(layers=(NAME, "other")),)
        assert "with `other`" in found[0].why
        assert repair_recipe(report, TARGETS).remedies == (SmoothQuant(),)


def test_inputs_that_stay_float_need_no_smoothing() -> None:
    seen = InputChannels(axis=-3, lo=(0.0,) * 16, hi=(1.0,) * 15 + (100.0,))

    assert kinds(report_with(input_channels=seen, input=None)) == []


@pytest.mark.parametrize("bits", [FEW_BITS, FEW_BITS + 1])
def test_few_bits_point_to_gptq_and_bias_correction(bits: int) -> None:
    report = report_with()
    layer = layer_of(report)
    assert layer.weight is not None
    scheme = replace(layer.weight.scheme, bits=bits)
    report = replace_layer(report, NAME, weight=replace(layer.weight, scheme=scheme))

    found = offers(layer_of(report), report, TARGETS)

    assert [offer.key for offer in found] == (["gptq", "bias"] if bits <= FEW_BITS else [])


def test_a_remedy_that_the_run_has_is_not_offered_again() -> None:
    report = lost(report_with(), LOST_SHARE)
    report = replace(report, recipe=report.recipe.with_remedy(CrossLayerEqualization()))

    assert not any(key.startswith("equalize") for key in kinds(report))


def output(kl: float, half: float | None) -> OutputReport:
    interval = None if half is None else (kl - half, kl + half)
    known = make_report().output
    assert known is not None
    return replace(known, kl_divergence=kl, kl_interval=interval)


@pytest.mark.parametrize(
    ("after", "expected"),
    [(0.74, "better"), (0.75, "none"), (1.0, "none"), (1.25, "none"), (1.26, "worse")],
)
def test_a_change_counts_beyond_twice_half_of_the_interval(after: float, expected: str) -> None:
    assert effect(output(1.0, 0.125), output(after, 0.125)) == expected


def test_without_an_interval_right_answers_are_compared() -> None:
    before, after = output(1.0, None), output(0.5, None)
    samples = before.labelled_samples

    assert effect(before, replace(after, accuracy_quantized=before.accuracy_quantized)) == "none"
    lower = replace(before, accuracy_quantized=0.1, answers=None)
    higher = replace(after, accuracy_quantized=0.9, answers=None)
    assert (samples, effect(lower, higher), effect(higher, lower)) == (samples, "better", "worse")
    assert effect(None, after) == "unknown"
    assert degradation_text(output(1.0, 0.25)) == "1 nats (0.75–1.25)"


def test_treatments_are_told_with_their_errors() -> None:
    done = Treatment(
        "smooth_quant",
        ("q", "k", "v"),
        is_applied=True,
        error_before=0.5,
        error_after=0.01,
        error_of="layer outputs",
        alpha=0.5,
        folded_into="norm",
    )

    assert treatments_of("k", (done, BIAS)) == (done,)
    assert describe_treatment(done) == (
        "Smooth inputs: q, k, v; α 0.5, folded into norm; error of the layer outputs 50 % → 1 %."
    )
    assert "not applied to b, because it is float" in describe_treatment(BIAS)


BIAS = Treatment(BiasCorrection.kind, ("b",), is_applied=False, reason="it is float")
