"""Lessons 6 to 10: what they say is what the numbers say, and their figures change."""

from __future__ import annotations

from typing import Any

import pytest

from dashboard.facts.metrics import METRICS
from dashboard.facts.proxies import PROXIES, measure_agreement
from dashboard.views.learn.lesson import Lesson, Outcome
from dashboard.views.learn.lessons.l07_rounding import GPTQ, NEAREST
from dashboard.views.learn.lessons.l07_rounding import LESSON as ROUNDING
from dashboard.views.learn.lessons.l07_rounding import _right as right_of_rounding
from dashboard.views.learn.lessons.l08_fault import LESSON as FAULT
from dashboard.views.learn.lessons.l08_fault import _right as right_of_fault
from dashboard.work import rounding, service
from quant_engine.scheme import TensorScheme

LESSONS = (ROUNDING, FAULT)
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])


def shown(lesson: Lesson, **chosen: str) -> Outcome:
    return lesson.show({control.name: control.default for control in lesson.controls} | chosen)


def drawn(outcome: Outcome) -> list[dict[str, Any]]:
    return [picture.figure.to_plotly_json() for picture in outcome.pictures]


@each_lesson
def test_every_control_changes_a_figure(lesson: Lesson) -> None:
    for control in lesson.controls:
        first, last = (
            drawn(shown(lesson, **{control.name: option}))
            for option in (control.options[0], control.options[-1])
        )
        assert first != last


@each_lesson
def test_the_same_choice_gives_the_same_words_and_figures(lesson: Lesson) -> None:
    first, second = shown(lesson), shown(lesson)

    assert (first.truth, first.insight, first.computed) == (
        second.truth,
        second.insight,
        second.computed,
    )
    assert drawn(first) == drawn(second)


@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_makes_the_weights_worse_and_the_output_better(bits: int) -> None:
    nearest, gptq = rounding.round_layer(bits, False), rounding.round_layer(bits, True)

    assert nearest.beyond_nearest == 0
    assert 0.05 < gptq.beyond_nearest < 0.5
    assert gptq.weight_error > 1.5 * nearest.weight_error
    assert gptq.output_error < nearest.output_error / 4


def test_the_weight_error_of_the_nearest_mark_is_the_engines() -> None:
    model = service.example_run(rounding.MODEL)
    assert model is not None
    before = next(one for one in model.report.layers if one.name == rounding.LAYER).weight
    assert before is not None
    assert before.scheme == TensorScheme(granularity="per_channel")
    assert rounding.round_layer(8, False).weight_error == pytest.approx(before.error.nmse, rel=1e-3)


def test_the_rounding_lesson_says_what_it_computed() -> None:
    nearest, gptq = rounding.round_layer(4, False), rounding.round_layer(4, True)
    outcome = shown(ROUNDING)

    assert outcome.right == 1
    assert f"{nearest.output_error / gptq.output_error:.1f} times smaller" in outcome.truth
    assert f"{gptq.weight_error / nearest.weight_error:.1f} times as large" in outcome.truth
    assert shown(ROUNDING, rounding=NEAREST).pictures[1].alt.startswith("0 % of")
    assert not shown(ROUNDING, rounding=GPTQ).pictures[1].alt.startswith("0 % of")
    assert [right_of_rounding(1.0, farther) for farther in (2.0, 0.5, 1.0)] == [0, 1, 2]


def test_the_blamed_layer_is_measured_and_ties_are_said() -> None:
    run = service.example_run("vit")
    assert run is not None
    assert run.sensitivity is not None
    metric = METRICS[run.sensitivity.metric]
    agreement = measure_agreement(run.report, run.sensitivity, metric, PROXIES["local"])
    worst = max(run.sensitivity.layers, key=lambda layer: layer.kl_divergence or 0)
    outcome = shown(FAULT)

    assert agreement.spearman is not None
    assert abs(agreement.spearman) < 0.4
    assert outcome.right == 1
    assert worst.name in outcome.truth
    assert "a tie" in outcome.truth
    assert [right_of_fault(rho) for rho in (0.9, 0.1, -0.9, None)] == [0, 1, 2, 1]
