"""Which lesson is open, and what its controls say: both stand in the link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from dashboard.data.link_words import shorten
from dashboard.session.link_widgets import set_later, set_widget
from dashboard.session.notices import add_notice
from dashboard.session.state import LESSON_KEY, session
from dashboard.views.learn.catalogue import default_values
from dashboard.views.learn.lesson import Control, Lesson
from dashboard.widgets.slides import is_presenting

MOST_IN_A_ROW = 60
"""Letters of all options together that stand side by side; longer ones are a list to open."""


def hold_lesson(lessons: Sequence[Lesson]) -> int:
    """Draw the hidden field that binds the lesson to the link; return the index of the open one."""
    _open_next(lessons)
    if st.session_state.get(LESSON_KEY) == "" and LESSON_KEY in st.query_params:
        # A correction made while a session begins does not reach the address line by itself.
        st.session_state[LESSON_KEY] = ""
    name = st.text_input("Lesson in the link", key=LESSON_KEY, bind="query-params")
    names = [lesson.name for lesson in lessons]
    if name and name not in names:
        add_notice(
            f"The link's lesson is “{shorten(name)}”. Allowed: {', '.join(names)}. "
            "Showing the first."
        )
        set_widget(LESSON_KEY, "")  # draws the page again
    return names.index(name) if name in names else 0


def open_lesson(lesson: Lesson) -> None:
    """Open a lesson with its controls as they are at first; for callbacks."""
    session().next_lesson = lesson.name


def _open_next(lessons: Sequence[Lesson]) -> None:
    """Open the lesson that a callback asked for, so that one step back leads to the one before.

    Every change of the link is a step of the browser's history, and Streamlit drops the words of
    controls that are no longer drawn in a step of its own, after that to the next lesson. So they
    go first: a field drops its word from the link where the word says what the field says anyway.
    """
    here = session()
    name, here.next_lesson = here.next_lesson, None
    found = next((lesson for lesson in lessons if lesson.name == name), None)
    if found is None:
        return
    for key in {control.name for lesson in lessons for control in lesson.controls}:
        if key in st.query_params:
            st.text_input(key, st.query_params[key], key=key, bind="query-params")
    for key, value in {LESSON_KEY: found.name, **default_values(found)}.items():
        set_later(key, value)
    st.rerun()


def linked_values(lesson: Lesson) -> dict[str, str]:
    """Return what the controls say, drawn or not: by the link, else at first."""
    values = default_values(lesson)
    for control in lesson.controls:
        said = st.session_state.get(control.name, st.query_params.get(control.name))
        values[control.name] = said if said in control.options else control.default
    return values


def choose_values(lesson: Lesson, offered: Sequence[Control]) -> dict[str, str]:
    """Draw a lesson's controls; return what they say, those not offered by the link."""
    values = linked_values(lesson)
    if not offered:
        return values
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        for control in offered:
            values[control.name] = _choose(control)
    return values


def _choose(control: Control) -> str:
    if st.session_state.get(control.name, control.default) not in control.options:
        st.session_state[control.name] = control.default
    label, options, usual = control.label, control.options, control.default
    held: dict[str, Any] = {"key": control.name, "bind": "query-params", "help": control.about}
    width = 720 if is_presenting() else 420
    if all(option[:1].isdigit() for option in options):
        return st.select_slider(label, options, usual, width=width, **held)
    if sum(map(len, options)) <= MOST_IN_A_ROW:
        return st.segmented_control(label, options, default=usual, required=True, **held) or usual
    return st.selectbox(label, options, options.index(usual), width=width, **held)
