"""Findings on a layer that is destroyed and on the same layer repaired, from stored runs."""

from __future__ import annotations

from dashboard.data.runs import Run
from dashboard.data.stories import STORIES
from dashboard.facts.diagnosis.findings import find_findings
from dashboard.facts.diagnosis.verdicts import BAD, GOOD, is_destroyed, tensor_verdicts
from dashboard.work import service

LAYER = "blocks.2.depthwise"


def run_of(settings_of: str, story: int = 0) -> Run:
    run = service.find_example(getattr(STORIES[story], settings_of))
    assert run is not None
    return run


def test_lost_weights_are_finding_number_one_and_open_the_channels() -> None:
    report = run_of("broken").report

    first = find_findings(report.layer(LAYER), report)[0]

    assert (first.rule, first.opens) == ("coarse_scale", "Weights")
    assert first.figure.startswith("287 of 576 weights became 0; 31 of 64 channels are all 0; ")
    assert first.remedies == ("equalize", "per_channel")


def test_nothing_gets_a_tick_while_the_layer_is_destroyed() -> None:
    layer = run_of("broken").report.layer(LAYER)
    healthy = run_of("repaired").report.layer(LAYER)
    assert layer.weight is not None
    assert healthy.weight is not None

    assert is_destroyed(layer)
    assert not is_destroyed(healthy)
    assert GOOD in [v.tone for v in tensor_verdicts(layer.weight, "Weights")], "a tick to take"
    assert GOOD not in [v.tone for v in tensor_verdicts(layer.weight, "Weights", layer)]
    assert GOOD in [v.tone for v in tensor_verdicts(healthy.weight, "Weights", healthy)]


def test_ranges_are_compared_with_a_scale_per_channel() -> None:
    layer = run_of("broken").report.layer(LAYER)
    assert layer.weight is not None

    [verdict] = [v for v in tensor_verdicts(layer.weight, "Weights") if v.subject.endswith("range")]

    assert verdict.tone == BAD
    assert "one scale per channel promises 49.0 dB" in verdict.text


def test_loud_inputs_are_named_where_they_are_quantized() -> None:
    name = "blocks.0.attention.k_proj"
    broken, repaired = run_of("broken", 1).report, run_of("repaired", 1).report

    first = find_findings(broken.layer(name), broken)[0]
    in_float = find_findings(repaired.layer(name), repaired)

    assert (first.rule, first.opens) == ("input_channels", "Inputs")
    assert first.figure == "Input channels 0 and 7: up to 148 × the median"
    assert first.remedies[0] == "smooth"
    assert "input_channels" not in [finding.rule for finding in in_float]
