"""Explanations of figures lead to the lessons that teach their terms."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.views.learn.catalogue import lesson_terms
from dashboard.widgets.lesson_links import MOST_LESSONS, LessonTerms, lessons_about
from tests.dashboard.app_harness import assert_alive, link_of, open_app, texts

KNOWN = {
    name: LessonTerms(name, name, terms)
    for name, terms in {"steps": ("LSB",), "zero": ("zero point", "padding"), "none": ()}.items()
}


def names(text: str) -> list[str]:
    return [lesson.name for lesson in lessons_about(text, KNOWN)]


def test_terms_are_found_as_whole_words_in_the_order_of_the_text() -> None:
    assert names("Zero points and one lsb.") == ["zero", "steps"]
    assert names("One LSB of padding.") == ["steps", "zero"]
    assert names("Paddings-like, LSBX, zero and point.") == ["zero"]
    assert names("Nothing of it.") == []


def test_an_explanation_leads_to_few_lessons() -> None:
    many = {str(n): LessonTerms(str(n), "", ("scale",)) for n in range(9)}

    assert len(lessons_about("The scale.", many)) == MOST_LESSONS


def lessons_beside(app: AppTest, numbers: str) -> set[str]:
    keys, start = [str(button.key) for button in app.button], f"{numbers}_lesson_"
    return {key.removeprefix(start) for key in keys if key.startswith(start)}


def test_a_figures_explanation_opens_the_lesson_and_keeps_the_run() -> None:
    app = open_app({"run": "mlp int8_per_channel"}, page="views/layer/layer.py")
    links = [button for button in app.button if "_lesson_" in (button.key or "")]
    assert links
    assert lessons_beside(app, "layer_headline") == {"steps", "rounding", "fault"}
    titles = {lesson.name: lesson.title for lesson in lesson_terms()}
    name = str(links[0].key).rpartition("_lesson_")[2]
    assert links[0].label == f"Lesson: {titles[name]}"

    links[0].click().run()

    assert_alive(app)
    assert app.title[0].value == "Learn"
    assert titles[name] in texts(app)
    assert link_of(app)["lesson"] == name
    assert link_of(app)["run"] == "mlp int8_per_channel"


@pytest.mark.parametrize(
    ("page", "numbers", "lessons"),
    [
        ("views/size_time/size_time.py", "size", {"size"}),
        ("views/compare/compare.py", "compare_outcome", {"size", "sum"}),
        ("views/what_if/what_if.py", "what_if", {"size", "sum"}),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_beside_numbers_stand_the_lessons_on_them(
    page: str, numbers: str, lessons: set[str]
) -> None:
    runs = ("mlp int8_per_channel", "resnet int8_per_channel")
    app = open_app({"run": runs[0], "a": runs[0], "b": runs[1]}, page=page)

    assert lessons_beside(app, numbers) >= lessons


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("views/experiment/experiment.py", "result_layers"),
        ("views/sensitivity/sensitivity.py", "sensitivity_columns"),
    ],
)
def test_below_a_table_stand_the_lessons_on_its_columns(page: str, table: str) -> None:
    app = open_app({"run": "mlp int8_per_channel"}, page=page)

    keys = [str(button.key) for button in app.button]
    found = [key for key in keys if key.startswith(f"{table}_lesson_")]
    assert found
    app.button(key=found[0]).click().run()

    assert_alive(app)
    assert app.title[0].value == "Learn"
    assert link_of(app)["lesson"] == found[0].removeprefix(f"{table}_lesson_")
