"""Every lesson there is: short, asked well, and right for everything its controls can say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dashboard.data.settings import settings_to_text
from dashboard.session import comparison
from dashboard.session.state import LAYER_KEY, LESSON_KEY, PRESENT_KEY, RUN_KEY
from dashboard.views.learn.catalogue import default_values, find_lessons
from dashboard.views.learn.lesson import Control, Lesson, Outcome
from tests.dashboard.app_harness import APP, assert_alive, open_app
from tests.dashboard.shown_lessons import shown

MOST_WORDS = 120
MOST_COMBINATIONS = 12
TAKEN = {RUN_KEY, LAYER_KEY, PRESENT_KEY, LESSON_KEY, "show", "class"}
each_lesson = pytest.mark.parametrize("lesson", find_lessons(), ids=lambda lesson: lesson.name)


def combinations(lesson: Lesson) -> Iterator[dict[str, str]]:
    """Everything the controls can say; of many, only their first, last and default options."""

    def few(control: Control) -> list[str]:
        return sorted({control.options[0], control.options[-1], control.default})

    options: list[tuple[str, ...]] = [control.options for control in lesson.controls]
    if len(list(itertools.product(*options))) > MOST_COMBINATIONS:
        options = [tuple(few(control)) for control in lesson.controls]
    for chosen in itertools.product(*options):
        yield dict(zip(default_values(lesson), chosen, strict=True))


def test_names_are_unique_and_fit_into_a_link() -> None:
    names = [lesson.name for lesson in find_lessons()]

    assert names
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


@each_lesson
def test_a_lesson_is_short_and_asks_well(lesson: Lesson) -> None:
    assert len(lesson.text.split()) <= MOST_WORDS
    assert not re.search(r"[<>\[\]$_#|~]", lesson.text)  # marks that paper does not know
    assert len(lesson.controls) <= 2
    assert 2 <= len(lesson.answers) <= 4
    assert len(set(lesson.answers)) == len(lesson.answers)
    assert (APP.parent / lesson.page).is_file()
    for control in lesson.controls:
        assert control.default in control.options
        assert len(set(control.options)) == len(control.options)
        assert re.fullmatch(r"[a-z]+", control.name)
        assert control.name not in TAKEN
        assert control.label
        assert control.about


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

    assert replace(first, pictures=()) == replace(second, pictures=())
    assert drawn(first) == drawn(second)


@each_lesson
def test_a_lesson_answers_whatever_its_controls_say(lesson: Lesson) -> None:
    right = lesson.show(default_values(lesson)).right
    assert 0 <= right < len(lesson.answers)
    for values in combinations(lesson):
        outcome = lesson.show(values)
        assert outcome.right == right, values
        assert 1 <= len(outcome.pictures) <= 2, values
        for picture in outcome.pictures:
            assert len(picture.alt.split()) > 3, values
            assert picture.about
            assert picture.rows()
            assert picture.figure.data
        assert outcome.truth
        assert re.fullmatch(r"[A-Z][^!?]*\.", outcome.insight), values
        assert not re.search(r"[.] [A-Z]", outcome.insight), "one sentence"
        assert outcome.computed
        names = [picture.name for picture in outcome.pictures]
        assert len(set(names)) == len(names)


@each_lesson
def test_the_page_that_a_lesson_opens_understands_its_link(lesson: Lesson) -> None:
    app = open_app(lesson.link, page=lesson.page)

    assert_alive(app)
    assert not app.warning, [element.value for element in app.warning]


def test_a_lesson_about_two_runs_opens_them_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has computed is computed as soon as the comparison is opened."""
    asked: list[str] = []
    monkeypatch.setattr(comparison, "submit_analysis", lambda s: asked.append(settings_to_text(s)))
    for lesson in find_lessons():
        comparison.compute_linked(lesson.link)

    assert asked == [
        "mobilenet_unequal_channels int8_per_tensor remedy:cross_layer_equalization",
        "vit_outlier_channels int8_per_channel remedy:smooth_quant-0.5",
    ]
