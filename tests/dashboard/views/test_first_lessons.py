"""Lessons 1 to 5: what they say is what the numbers say, and their figures change."""

from __future__ import annotations

from typing import Any

import pytest

from dashboard.views.learn.lesson import Lesson, Outcome
from dashboard.views.learn.lessons.l05_ruler import EQUAL, NOTHING
from dashboard.views.learn.lessons.l05_ruler import LESSON as RULER
from dashboard.work import ruler
from dashboard.work.lesson_numbers import read_numbers

LESSONS = (RULER,)
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])


def shown(lesson: Lesson, **chosen: str) -> Outcome:
    return lesson.show({control.name: control.default for control in lesson.controls} | chosen)


def drawn(outcome: Outcome) -> list[dict[str, Any]]:
    return [picture.figure.to_plotly_json() for picture in outcome.pictures]


@each_lesson
def test_a_lesson_is_short(lesson: Lesson) -> None:
    assert len(lesson.text.split()) <= 120
    assert 2 <= len(lesson.answers) <= 4
    assert len(lesson.controls) <= 2
    assert all(control.default in control.options for control in lesson.controls)


@each_lesson
def test_the_right_answer_does_not_depend_on_the_controls(lesson: Lesson) -> None:
    first = shown(lesson)
    for control in lesson.controls:
        for option in (control.options[0], control.options[-1]):
            assert shown(lesson, **{control.name: option}).right == first.right


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


def test_only_equal_channels_bring_the_answers_back() -> None:
    values = read_numbers("ruler").values
    treatments = values["treatments"]
    accuracy = {name: one["accuracy"] for name, one in treatments.items()}

    assert shown(RULER).right == 3
    assert 0.15 <= accuracy[ruler.NOTHING] <= 0.20
    assert accuracy[ruler.EQUALIZE] >= values["float_accuracy"] - 0.005
    assert accuracy[ruler.OWN_SCALES] >= values["float_accuracy"] - 0.01
    for name in (ruler.MORE_IMAGES, ruler.SMARTER_RANGE, ruler.BIAS_CORRECTION, ruler.GPTQ):
        assert accuracy[name] < 0.35
    assert values["float_change"] < 1e-6


def test_the_ruler_figure_shows_both_layers_and_what_became_zero() -> None:
    before, after = shown(RULER, repair=NOTHING), shown(RULER, repair=EQUAL)

    assert "layout.xaxis2" not in str(before.pictures[1].figure.layout)
    assert len(after.pictures[1].rows()) == 2 * len(before.pictures[1].rows())
    assert "216 of 432 weights became 0" in before.pictures[1].alt
