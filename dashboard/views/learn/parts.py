"""Parts of a lesson: the path of all lessons, the question, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.session.comparison import compute_linked
from dashboard.session.link_widgets import open_next
from dashboard.views.learn.answers import forget_answers, give_answer, take_back_answer
from dashboard.views.learn.catalogue import answered_by, find_outcome
from dashboard.views.learn.class_view import count_answer, show_class
from dashboard.views.learn.lesson import Control, Lesson, Outcome
from dashboard.views.learn.paper import handout
from dashboard.views.learn.place import choose_values, open_lesson
from dashboard.widgets.chart import show_figure
from dashboard.widgets.guard import contained
from dashboard.widgets.slides import ARROWS
from dashboard.words.markdown import escape_sentence

RIGHT, WRONG, OPEN = "right", "wrong", "not yet"
ICONS = {
    RIGHT: ":material/check_circle:",
    WRONG: ":material/cancel:",
    OPEN: ":material/radio_button_unchecked:",
}


def state_of(lesson: Lesson, answers: Mapping[str, int]) -> str:
    """Return whether a lesson was answered, and how."""
    if lesson.name not in answers:
        return OPEN
    return RIGHT if answers[lesson.name] == answered_by(lesson).right else WRONG


@contained("The list of lessons")
def show_path(lessons: Sequence[Lesson], index: int, answers: Mapping[str, int]) -> None:
    """Draw the lessons in their order, each a button that says how it was answered."""
    states = [state_of(lesson, answers) for lesson in lessons]
    with st.container(horizontal=True, gap="xsmall", key="learn_path"):
        for number, (lesson, state) in enumerate(zip(lessons, states, strict=True), start=1):
            st.button(
                f"{number} {lesson.title}" + ("" if state == OPEN else f" ({state})"),
                key=f"learn_open_{lesson.name}",
                icon=ICONS[state],
                type="primary" if number == index + 1 else "tertiary",
                on_click=open_lesson,
                args=(lesson,),
            )
    answered = len(states) - states.count(OPEN)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(
            f"Answered: {answered} of {len(states)}; right: {states.count(RIGHT)}.", width="content"
        )
        if answered:
            st.button(
                "Start again",
                key="learn_start_again",
                type="tertiary",
                icon=":material/restart_alt:",
                help="Forgets all your answers.",
                on_click=forget_answers,
            )


def show_steps(lessons: Sequence[Lesson], index: int) -> None:
    """Draw the buttons to the lessons before and after; the arrow keys press them."""
    with st.container(horizontal=True, gap="small", width="content", key="learn_steps"):
        for label, key, icon, step in ARROWS:
            is_end = not 0 <= index + step < len(lessons)
            st.button(
                label,
                key=f"learn_{label.lower()}",
                icon=icon,
                icon_position="left" if step < 0 else "right",
                type="tertiary",
                shortcut=key,
                disabled=is_end,
                help=None if is_end else lessons[index + step].title,
                on_click=open_lesson,
                args=(lessons[index if is_end else index + step],),
            )


def show_question(lesson: Lesson) -> None:
    """Draw the question with its answers as buttons; the number keys press them."""
    st.markdown(f"#### {lesson.question}")
    with st.container(gap="xsmall", key="learn_answers", width=760):
        for index, answer in enumerate(lesson.answers):
            st.button(
                answer,
                key=f"learn_answer_{lesson.name}_{index}",
                shortcut=str(index + 1),
                width="stretch",
                on_click=_answer,
                args=(lesson, index),
            )
    st.caption("Choose an answer to see what the engine says.")
    show_class(lesson, None)


def _answer(lesson: Lesson, index: int) -> None:
    give_answer(lesson.name, index)
    count_answer(lesson, index)


def show_verdict(lesson: Lesson, answer: int, outcome: Outcome) -> None:
    """Draw what was answered beside what is right."""
    st.markdown(f"#### {lesson.question}")
    is_right = answer == outcome.right
    with st.grid(2, min_column_width=330, gap="small", key="learn_verdict"):
        with st.container(border=True, gap="xsmall", height="stretch"):
            if is_right:
                st.badge("You said, and that is right", icon=ICONS[RIGHT], color="green")
            else:
                st.badge("You said, but that is wrong", icon=ICONS[WRONG], color="red")
            st.markdown(lesson.answers[answer])
            st.button(
                "Answer again",
                key=f"learn_again_{lesson.name}",
                type="tertiary",
                icon=":material/undo:",
                on_click=take_back_answer,
                args=(lesson.name,),
            )
        with st.container(border=True, gap="xsmall", height="stretch"):
            st.badge("It is", icon=":material/task_alt:", color="blue")
            st.markdown(f"**{lesson.answers[outcome.right]}**")
            st.markdown(escape_sentence(outcome.truth))
    show_class(lesson, outcome.right)


def _open_in_dashboard(lesson: Lesson) -> None:
    compute_linked(lesson.link)
    open_next(lesson.page, lesson.link)


@contained("What the engine says")
def show_outcome(lesson: Lesson, offered: Sequence[Control]) -> None:
    """Draw the controls offered, the figures for what all of them say, and what to take home."""
    values = choose_values(lesson, offered)
    outcome = find_outcome(lesson, values)
    for number, picture in enumerate(outcome.pictures):
        key = f"learn_{lesson.name}_{number}"
        show_figure(picture, key=key, stem=f"lesson-{lesson.name}", is_lesson=True)
    st.caption(escape_sentence(outcome.computed))
    st.info(escape_sentence(outcome.insight), icon=":material/lightbulb:")
    with st.container(horizontal=True, gap="small", key="learn_onward"):
        st.button(
            "Open this in the dashboard",
            key=f"learn_dashboard_{lesson.name}",
            icon=":material/open_in_full:",
            on_click=_open_in_dashboard,
            args=(lesson,),
        )
        st.download_button(
            "For print (HTML)",
            data=lambda: handout([(lesson, values)]),
            file_name=f"lesson-{lesson.name}.html",
            mime="text/html",
            on_click="ignore",
            type="tertiary",
            icon=":material/print:",
            key=f"learn_print_{lesson.name}",
            help="The lesson with its figures as they are now, on one sheet of A4.",
        )
