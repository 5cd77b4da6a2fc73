"""What a finding offers for a layer, as recipes; and when a remedy counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.facts.diagnosis import findings as rules
from dashboard.facts.diagnosis.findings import Finding
from dashboard.facts.diagnosis.remedies import (
    Offer,
    describe_treatment,
    offers,
    treatments_of,
)
from dashboard.facts.output_change import effect, output_text
from quant_engine.remedies import SmoothingGroup, Targets
from quant_engine.report import ModelReport, OutputReport, RangeChoice, Treatment
from quant_engine.scheme import (
    AdaRound,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    LayerScheme,
    SmoothQuant,
)
from tests.dashboard.factories import make_report, replace_layer

NAME = "layer2.0.conv1"
PAIRS = (("stem", NAME), (NAME, "layer2.0.conv2"))
TARGETS = Targets(PAIRS, (SmoothingGroup((NAME, "other")),))
REPORT = make_report("int8_per_tensor")
LAYER = REPORT.layer(NAME)


def offered(
    *remedies: str, report: ModelReport = REPORT, targets: Targets = TARGETS
) -> tuple[Offer, ...]:
    """What a finding that points to these remedies offers for the layer."""
    finding = Finding("rounding", "", "", remedies)
    return offers(finding, report.layer(NAME), report.recipe, targets)


def test_equalization_names_the_neighbour_and_treats_the_pair() -> None:
    found = offered(rules.EQUALIZE)

    assert [offer.key for offer in found] == ["equalize_stem", "equalize_layer2.0.conv2"]
    assert found[0].label == "Equalize with `stem` and compare"
    assert found[0].recipe == REPORT.recipe.with_remedy(CrossLayerEqualization(layers=PAIRS[0]))
    assert found[0].whole == REPORT.recipe.with_remedy(CrossLayerEqualization())
    before = offered(rules.EQUALIZE_INPUT)
    assert [offer.recipe.remedies[0].layers for offer in before] == [PAIRS[0]]


def test_smoothing_treats_all_that_read_the_tensor() -> None:
    (found,) = offered(rules.SMOOTH)

    assert found.label == "Smooth (α auto) with `other` and compare"
    assert found.recipe.remedies == (SmoothQuant(layers=(NAME, "other")),)
    assert offered(rules.SMOOTH, rules.EQUALIZE, targets=Targets()) == ()


def test_smoothing_is_not_offered_where_it_would_be_folded_into_weights_with_one_scale() -> None:
    targets = Targets(groups=(SmoothingGroup((NAME,), folded_into="conv1"),))

    assert offered(rules.SMOOTH, targets=targets) == ()
    assert len(offered(rules.SMOOTH, report=make_report(), targets=targets)) == 1


def test_codes_and_biases_are_treated_for_the_layer_or_for_all() -> None:
    gptq, adaround, bias = offered(rules.GPTQ, rules.ADAROUND, rules.BIAS)

    assert gptq.label == "Round by GPTQ and compare"
    assert gptq.recipe.remedies == (Gptq(layers=(NAME,)),)
    assert gptq.whole is not None
    assert gptq.whole.remedies == (Gptq(),)
    assert adaround.label == "Round by AdaRound and compare"
    assert adaround.recipe.remedies == (AdaRound(layers=(NAME,)),)
    assert bias.recipe.remedies == (BiasCorrection(layers=(NAME,)),)


def scheme_of(offer: Offer) -> LayerScheme:
    scheme = offer.recipe.layer_scheme(NAME)
    assert scheme is not None
    return scheme


def test_other_schemes_are_offered_for_the_layer_and_for_all() -> None:
    report = make_report("int8_symmetric")
    channel, zero, bits = offered(
        rules.PER_CHANNEL, rules.ASYMMETRIC, rules.MORE_BITS, report=with_bits(report, 4)
    )

    assert scheme_of(channel).weight.granularity == "per_channel"
    assert channel.whole is not None
    assert channel.whole.weight.granularity == "per_channel"
    activation = scheme_of(zero).activation
    assert activation is not None
    assert not activation.symmetric
    assert zero.whole is not None
    assert scheme_of(bits).weight.bits == 8
    assert bits.whole is None  # the other layers have 8 bits already


def with_bits(report: ModelReport, bits: int) -> ModelReport:
    return replace(report, recipe=report.recipe.with_layer_bits(NAME, bits))


def test_what_the_layer_has_already_is_not_offered() -> None:
    report = replace(REPORT, recipe=REPORT.recipe.with_remedy(CrossLayerEqualization()))
    asymmetric = offered(rules.ASYMMETRIC, rules.MORE_BITS)

    assert offered(rules.EQUALIZE, report=report) == ()
    assert asymmetric == ()


def test_a_layer_or_its_inputs_can_stay_in_float() -> None:
    inputs, layer = offered(rules.FLOAT_INPUT, rules.FLOAT)

    assert scheme_of(inputs).activation is None
    assert layer.recipe.layer_scheme(NAME) is None


def test_the_best_range_of_all_layers_is_offered_by_name() -> None:
    tensor = LAYER.input
    assert tensor is not None
    choices = [RangeChoice("minmax", -1, 1, 0.1, 0, 20.0, 0.0)]
    choices.append(RangeChoice("mse", -1, 1, 0.1, 0, 30.0, 0.1))
    report = replace_layer(REPORT, NAME, input=replace(tensor, range_choices=tuple(choices)))

    (found,) = offered(rules.INPUT_RANGE, report=report)

    assert found.label == "Choose the inputs' range by smallest error and compare"
    activation = scheme_of(found).activation
    assert activation is not None
    assert activation.observer == "mse"
    assert found.whole is not None


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
    assert output_text(output(1.0, 0.25)) == "1 nats (0.75–1.25)"


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
    beside = replace(done, remedy="adaround", error_by_gptq=0.02)
    assert "50 % → 1 % (GPTQ on the same inputs: 2 %)." in describe_treatment(beside)


BIAS = Treatment(BiasCorrection.kind, ("b",), is_applied=False, reason="it is float")
