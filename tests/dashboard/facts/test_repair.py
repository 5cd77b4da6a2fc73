"""A repair tries what findings point to, one step at a time, and keeps what is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from dashboard.data.runs import Run
from dashboard.data.settings import Settings
from dashboard.facts.diagnosis.repair import (
    STEPS,
    describe_repair,
    is_repaired,
    proposals,
    repair_steps,
    repaired_run,
)
from dashboard.facts.diagnosis.thresholds import MATTERS
from dashboard.figures.layers.repair import repair_picture
from quant_engine.remedies import SmoothingGroup, Targets
from quant_engine.report import InputChannels, ModelReport
from quant_engine.scheme import CrossLayerEqualization, Recipe, SmoothQuant
from tests.dashboard.factories import make_report, replace_layer

NAME = "layer2.0.conv1"
TARGETS = Targets((("stem", NAME),), (SmoothingGroup((NAME,)),))


def run_of(recipe: Recipe, kl: float, half: float = 0.01) -> Run:
    """A run with outlier input channels in one layer, and this degradation."""
    report = make_report()
    assert report.output is not None
    seen = InputChannels(axis=-3, lo=(0.0,) * 16, hi=(1.0,) * 15 + (100.0,))
    report = replace_layer(report, NAME, input_channels=seen)
    output = replace(report.output, kl_divergence=kl, kl_interval=(kl - half, kl + half))
    return Run(Settings("mlp", recipe), replace(report, recipe=recipe, output=output))


START = run_of(make_report().recipe, 1.0)
EQUALIZED = START.recipe.with_remedy(CrossLayerEqualization())
SMOOTHED = START.recipe.with_remedy(SmoothQuant())
BOTH = EQUALIZED.with_remedy(SmoothQuant())


def finder(*runs: Run) -> Mapping[str, Run]:
    return {run.id: run for run in runs}


def steps_of(*runs: Run) -> list[tuple[str, str]]:
    known = finder(*runs)
    steps = repair_steps(START, TARGETS, lambda settings: known.get(settings.run_id))
    return [(step.label, step.verdict) for step in steps]


def test_a_healthy_model_has_no_proposal() -> None:
    assert proposals(make_report(), TARGETS) == ()


def test_proposals_name_their_layers_and_treat_all() -> None:
    equalize, smooth = proposals(START.report, TARGETS)

    assert (equalize.recipe, smooth.recipe) == (EQUALIZED, SMOOTHED)
    assert equalize.layers == (NAME,)
    assert list(STEPS).index(equalize.remedy) < list(STEPS).index(smooth.remedy)


def test_the_next_step_waits_for_its_run() -> None:
    assert steps_of() == [("Equalize layers", "")]


def test_a_step_without_effect_is_undone_and_the_next_begins_without_it() -> None:
    undone = run_of(EQUALIZED, 0.99)

    assert steps_of(undone) == [("Equalize layers", "none"), ("Smooth inputs", "")]
    steps = steps_of(undone, run_of(SMOOTHED, 0.1))
    assert steps == [("Equalize layers", "none"), ("Smooth inputs", "better")]


def test_a_better_step_is_kept_and_the_next_begins_from_it() -> None:
    kept, both = run_of(EQUALIZED, 0.5), run_of(BOTH, 0.7)
    known = finder(kept, both)

    steps = repair_steps(START, TARGETS, lambda settings: known.get(settings.run_id))

    assert [step.verdict for step in steps] == ["better", "worse"]
    assert repaired_run(START, steps) is kept
    assert describe_repair(START, steps) == ("Kept: Equalize layers; worse, undone: Smooth inputs.")


def test_an_unfinished_run_is_no_step() -> None:
    part = run_of(EQUALIZED, 0.5)

    assert steps_of(replace(part, report=replace(part.report, is_partial=True))) == [
        ("Equalize layers", "")
    ]


@pytest.mark.parametrize("kl", [MATTERS, MATTERS * 0.99])
def test_the_chain_ends_where_the_answers_barely_move(kl: float) -> None:
    run = run_of(EQUALIZED, kl, half=1e-5)

    assert is_repaired(run) == (kl < MATTERS)
    expected = [("Equalize layers", "better")]
    assert steps_of(run) == (expected if kl < MATTERS else [*expected, ("Smooth inputs", "")])


def test_a_report_without_output_is_never_called_repaired() -> None:
    report: ModelReport = replace(make_report(), output=None)

    assert not is_repaired(Run(Settings("mlp"), report))


def test_the_curve_has_a_point_for_each_run_and_tells_kept_from_undone() -> None:
    undone, smoothed = run_of(EQUALIZED, 0.99), run_of(SMOOTHED, 0.1)
    known = finder(undone, smoothed)
    steps = repair_steps(START, TARGETS, lambda settings: known.get(settings.run_id))

    picture = repair_picture(START, steps)

    points = [trace for trace in picture.figure.data if trace.mode == "markers"]
    assert list(points[0].y) == [1.0, 0.99, 0.1]
    assert list(points[0].marker.symbol) == ["circle", "circle-open", "circle"]
    assert list(points[0].error_y.array) == pytest.approx([0.01] * 3)
    path = next(trace for trace in picture.figure.data if trace.mode == "lines")
    assert list(path.y) == [1.0, 0.1]
    rows = picture.rows()
    assert [row["verdict"] for row in rows] == ["start", "no effect, undone", "kept"]
    assert "no effect, undone: Equalize layers" in picture.alt
