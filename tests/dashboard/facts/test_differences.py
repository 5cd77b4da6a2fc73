"""What differs between two runs, with its certainty, against counts made here by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.data.stories import STORIES
from dashboard.facts.accuracy import NO_DIFFERENCE
from dashboard.facts.compare.differences import Difference, outcomes, setting_differences
from dashboard.facts.cost.executions import FLOATS
from dashboard.work import service
from quant_engine.report import Answers, OutputReport, TimingEntry, TimingReport
from quant_engine.scheme import PRESETS, Gptq
from tests.dashboard.factories import make_report

SAMPLES = 400


def stored(settings: Settings) -> Run:
    run = service.find_example(settings)
    assert run is not None
    return run


def named(found: tuple[Difference, ...]) -> dict[str, Difference]:
    return {one.name: one for one in found}


def test_only_settings_that_differ_are_named() -> None:
    recipe = PRESETS["int8_per_channel"]
    a = Settings("mlp", recipe)
    b = Settings("mlp", recipe.with_excluded("head").with_layer_bits("stem", 4), seed=3)
    b = replace(b, recipe=b.recipe.with_remedy(Gptq()))

    found = named(setting_differences(a, b))

    assert set(found) == {"Kept in float", "Remedies", "Seed", "Scheme of stem"}
    assert (found["Kept in float"].a, found["Kept in float"].b) == ("nothing", "head")
    assert (found["Seed"].a, found["Seed"].b) == ("0", "3")
    assert found["Scheme of stem"].a == "as the others"
    assert "4-bit" in found["Scheme of stem"].b
    assert setting_differences(a, a) == ()


def output(right: int, agreeing: int, *, kl: float, spread: float) -> OutputReport:
    """An output that gets the first `right` samples right, and is as float in `agreeing`."""
    report = make_report().output
    assert report is not None
    quantized = tuple(1 if i < right else 2 for i in range(SAMPLES))
    floats = tuple(q if i < agreeing else 5 for i, q in enumerate(quantized))
    return replace(
        report,
        samples=SAMPLES,
        labelled_samples=SAMPLES,
        accuracy_quantized=right / SAMPLES,
        top1_agreement=agreeing / SAMPLES,
        kl_divergence=kl,
        kl_interval=(kl - spread, kl + spread),
        answers=Answers(floats, quantized, (1,) * SAMPLES),
    )


def run_with(found: OutputReport, model: str = "mlp") -> Run:
    return Run(Settings(model), replace(make_report(), output=found))


def test_a_difference_inside_its_interval_is_called_none() -> None:
    a = run_with(output(390, 395, kl=0.010, spread=0.004))
    b = run_with(output(391, 396, kl=0.012, spread=0.004))

    found = named(outcomes(a, b))

    for name in ("Right answers", "Same answer as float", "Degradation"):
        assert found[name].verdict == "none", name
        assert NO_DIFFERENCE in found[name].change, name
    assert found["Bytes"].change == "same size"


@pytest.mark.parametrize(("first", "second", "verdict"), [(0, 1, "better"), (1, 0, "worse")])
def test_a_clear_difference_turns_round_when_the_two_are_swapped(
    first: int, second: int, verdict: str
) -> None:
    runs = [
        run_with(output(200, 210, kl=1.0, spread=0.1)),
        run_with(output(390, 395, kl=0.01, spread=0.004)),
    ]

    found = named(outcomes(runs[first], runs[second]))

    for name in ("Right answers", "Same answer as float", "Degradation"):
        assert found[name].verdict == verdict, name
    assert ("+47.5 points" if verdict == "better" else "−47.5 points") in found[
        "Right answers"
    ].change


def test_agreement_is_compared_in_pairs_not_by_two_separate_intervals() -> None:
    """Six samples won and none lost are a difference, though the two shares' intervals overlap."""
    a = run_with(output(390, 380, kl=0.01, spread=0.004))
    b = run_with(output(390, 388, kl=0.01, spread=0.004))

    assert named(outcomes(a, b))["Same answer as float"].verdict == "better"


def test_two_models_are_not_compared_by_degradation() -> None:
    a = run_with(output(200, 210, kl=1.0, spread=0.1))
    b = run_with(output(390, 395, kl=0.01, spread=0.004), "resnet")

    found = named(outcomes(a, b))["Degradation"]

    assert found.verdict == "unknown"
    assert "its own float model" in found.change


def test_the_stored_story_is_as_its_numbers_say() -> None:
    found = named(outcomes(stored(STORIES[0].broken), stored(STORIES[0].repaired)))

    right = found["Right answers"]
    assert (right.a[:6], right.b[:7]) == ("16.5 %", "99.25 %")
    assert right.verdict == "better"
    assert right.change.startswith("+82.75 points")
    assert found["Bytes"].verdict == "worse", "one scale per channel takes more bytes"


def test_times_of_other_machines_are_shown_and_not_judged() -> None:
    run = Run(Settings("mlp"), make_report())
    timing = run.report.timing
    assert timing is not None
    elsewhere = replace(timing, environment=replace(timing.environment, threads=64))

    def nine_times(kinds: tuple[str, ...]) -> TimingReport:
        def longer(e: TimingEntry) -> TimingEntry:
            return replace(e, median_ms=9 * e.median_ms, q1_ms=9 * e.q1_ms, q3_ms=9 * e.q3_ms)

        models = tuple(longer(e) if e.execution in kinds else e for e in timing.models)
        return replace(timing, models=models)

    kinds = tuple(dict.fromkeys(entry.execution for entry in timing.models))
    slower = nine_times(tuple(kind for kind in kinds if kind not in FLOATS))
    all_slower = nine_times(kinds)

    def times(found: tuple[Difference, ...]) -> list[Difference]:
        return [one for one in found if one.name.startswith("Time, ")]

    same = times(outcomes(run, run))
    assert len(same) == len(timing.models)
    assert {one.verdict for one in same} == {"none"}
    other = replace(run, report=replace(run.report, timing=slower))
    found = times(outcomes(run, other))
    assert {one.verdict for one in found if "float" not in one.name} == {"worse"}
    assert {one.verdict for one in found if "float" in one.name} == {"none"}
    other = replace(run, report=replace(run.report, timing=all_slower))
    found = times(outcomes(run, other))
    assert {one.verdict for one in found} == {"none"}, "the float model is the same in both"
    assert all("varies as much" in one.change for one in found)
    other = replace(run, report=replace(run.report, timing=elsewhere))
    assert {one.verdict for one in times(outcomes(run, other))} == {"unknown"}
    other = replace(run, report=replace(run.report, timing=None))
    assert not times(outcomes(run, other))
