"""A lesson on slides: the question, the truth, the figures, what to take home."""

from __future__ import annotations

import streamlit as st

from dashboard.session.state import LESSON_KEY
from dashboard.views.learn import catalogue
from dashboard.views.learn.catalogue import answered_by, find_outcome
from dashboard.views.learn.class_view import class_key, show_class
from dashboard.views.learn.lesson import Lesson
from dashboard.views.learn.place import choose_values, linked_values, open_lesson
from dashboard.widgets.chart import show_figure
from dashboard.widgets.slides import begin_slides, is_on_screen
from dashboard.words.markdown import escape_sentence

CONTROL_PIXELS = 130
"""Height of the controls above a figure on a slide."""


def show_slides(lesson: Lesson, number: int) -> None:
    """Draw the slide whose turn it is; nothing of the answer stands on the first one."""
    begin_slides(lesson.name, _turn)
    if is_on_screen("learn_question"):
        with st.container(key="figure_learn_question"):
            st.subheader(f"{number}. {lesson.title}", anchor=False)
            st.markdown(lesson.text)
            st.markdown(f"**{lesson.question}**")
            for index, answer in enumerate(lesson.answers, start=1):
                st.markdown(f"{index}\\. {answer}")
            show_class(lesson, None)
    outcome = answered_by(lesson)
    if is_on_screen("learn_truth"):
        with st.container(key="figure_learn_truth"):
            st.markdown(lesson.question)
            right = f"Answer {outcome.right + 1}: {lesson.answers[outcome.right]}"
            st.subheader(right, anchor=False)
            st.markdown(escape_sentence(outcome.truth))
    if class_key() is not None and is_on_screen("learn_class"):
        with st.container(key="figure_learn_class_place"):
            show_class(lesson, outcome.right)
    _show_figures(lesson)


def _show_figures(lesson: Lesson) -> None:
    keys = [f"learn_{lesson.name}_{n}" for n in range(len(answered_by(lesson).pictures))]
    on_screen = [is_on_screen(key) for key in keys]
    is_last = is_on_screen("learn_insight")
    values = linked_values(lesson)
    if (any(on_screen) or is_last) and lesson.controls:
        with st.container(key="figure_learn_controls"):
            values = choose_values(lesson, lesson.controls)
    outcome = find_outcome(lesson, values)
    for key, picture in zip(keys, outcome.pictures, strict=False):
        taken = CONTROL_PIXELS if lesson.controls else 0
        show_figure(picture, key=key, stem=f"lesson-{lesson.name}", taken=taken)
    if is_last:
        with st.container(key="figure_learn_insight"):
            st.subheader(lesson.title, anchor=False)
            st.markdown(f"**{escape_sentence(outcome.insight)}**")
            st.markdown(escape_sentence(outcome.computed))


def _turn(step: int) -> bool:
    """Open the lesson before or after, where there is one; for the keys of the slides."""
    lessons = catalogue.find_lessons()
    names = [lesson.name for lesson in lessons]
    name = st.session_state.get(LESSON_KEY)
    index = (names.index(name) if name in names else 0) + step
    if not 0 <= index < len(lessons):
        return False
    open_lesson(lessons[index])
    return True
