"""Learn: lessons that ask first, and let the engine answer."""

from __future__ import annotations

import streamlit as st

from dashboard.session.link_check import check_link_word
from dashboard.session.state import SHOW_KEY
from dashboard.views.learn.answers import hold_answers
from dashboard.views.learn.catalogue import answered_by, find_lessons
from dashboard.views.learn.class_view import check_class_link
from dashboard.views.learn.lesson import Lesson
from dashboard.views.learn.lesson_slides import show_slides
from dashboard.views.learn.parts import (
    show_outcome,
    show_path,
    show_question,
    show_steps,
    show_verdict,
)
from dashboard.views.learn.place import hold_lesson
from dashboard.views.learn.teacher import check_show_link, show_teacher, shown_controls
from dashboard.widgets.guard import contain, contained
from dashboard.widgets.slides import is_presenting

TEXT_WIDTH = 860
"""Pixels in which a line of text is read without losing it."""


@contained("The lesson")
def _show_lesson(lesson: Lesson, answer: int | None) -> None:
    st.markdown(lesson.text, width=TEXT_WIDTH)
    if answer is None:
        show_question(lesson)
        answered_by(lesson)  # for all visitors, while they read
        return
    show_verdict(lesson, answer, answered_by(lesson))
    show_outcome(lesson, shown_controls(lesson))


check_class_link()
check_show_link()
lessons = find_lessons()
with st.container(key="link_state_learn"):
    index = hold_lesson(lessons)
    answers = hold_answers(lessons)
lesson = lessons[index]
for control in lesson.controls:
    check_link_word(control.name, control.options)
title = f"{index + 1}. {lesson.title}"
if SHOW_KEY in st.query_params:  # a link that a teacher handed out
    st.title(title, anchor=False)
    show_steps(lessons, index)
    _show_lesson(lesson, answers.get(lesson.name))
elif is_presenting():
    with contain("The lesson"):
        show_slides(lesson, index + 1)
else:
    st.title("Learn", anchor=False)
    show_path(lessons, index, answers)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium", key="learn_head"):
        st.subheader(title, anchor=False, width="content")
        show_steps(lessons, index)
        show_teacher(lesson)
    _show_lesson(lesson, answers.get(lesson.name))
