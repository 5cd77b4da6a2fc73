"""Links that a teacher hands out: one lesson, the controls that are wanted, and a class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlencode, urlsplit

import streamlit as st

from dashboard.session.link_check import check_link_word
from dashboard.session.state import CLASS_KEY, LESSON_KEY, PRESENT_KEY, SHOW_KEY, session
from dashboard.views.learn import catalogue
from dashboard.views.learn.catalogue import default_values
from dashboard.views.learn.class_view import class_key
from dashboard.views.learn.class_votes import new_key
from dashboard.views.learn.lesson import Control, Lesson
from dashboard.views.learn.paper import handout
from dashboard.views.learn.place import linked_values

ALL, NONE = "all", "none"


def check_show_link() -> None:
    """Say so if the link wants a control to show that no lesson has."""
    names = dict.fromkeys(c.name for lesson in catalogue.find_lessons() for c in lesson.controls)
    check_link_word(SHOW_KEY, [ALL, NONE, "", *names], allowed=", ".join((ALL, NONE, *names)))


def shown_controls(lesson: Lesson) -> tuple[Control, ...]:
    """Return the controls that the link lets a learner move; all where it is no teacher's."""
    words = st.query_params.get_all(SHOW_KEY)
    known = {control.name for other in catalogue.find_lessons() for control in other.controls}
    if not words or ALL in words or not known.union((NONE, "")).intersection(words):
        return lesson.controls
    return tuple(control for control in lesson.controls if control.name in words)


def link_words(
    lesson: Lesson, values: Mapping[str, str], shown: Collection[str], key: str
) -> list[tuple[str, str]]:
    """Return the words of a teacher's link.

    Args:
        lesson: What it opens.
        values: What the controls say at first.
        shown: Names of the controls that may be moved.
        key: Key of the class; "" counts no answers.
    """
    words = [(LESSON_KEY, lesson.name)]
    words += [(c.name, values[c.name]) for c in lesson.controls if values[c.name] != c.default]
    names = [control.name for control in lesson.controls if control.name in shown]
    if len(names) == len(lesson.controls):
        names = [ALL]
    words += [(SHOW_KEY, name) for name in names or [NONE]]
    return [*words, (CLASS_KEY, key)] if key else words


def show_teacher(lesson: Lesson) -> None:
    """Draw the popover in which a teacher makes a link."""
    with st.popover("For teachers", icon=":material/co_present:", type="tertiary"):
        st.markdown(
            "A link for a class opens this lesson and nothing else: no pages, no run, and only "
            "the controls that you leave in."
        )
        shown = []
        for control in lesson.controls:
            label, key = f"The class may move “{control.label}”", f"learn_show_{lesson.name}_"
            if st.checkbox(label, value=True, key=key + control.name):
                shown.append(control.name)
        is_counted = st.toggle(
            "Count the answers",
            value=True,
            key="learn_count",
            help="Without names, in memory, until the server ends. The bars stand next to the "
            "truth for everybody who has answered.",
        )
        here = session()
        here.class_key = class_key() or here.class_key or new_key()
        words = link_words(
            lesson, linked_values(lesson), shown, here.class_key if is_counted else ""
        )
        here_at = urlsplit(st.context.url or "")
        base = f"{here_at.scheme}://{here_at.netloc}/learn?"
        st.markdown("**Link for the class**")
        st.code(base + urlencode(words), language=None, wrap_lines=True)
        own = [(key, word) for key, word in words if key != SHOW_KEY]
        st.link_button(
            "Present this lesson",
            base + urlencode([*own, (PRESENT_KEY, "1")]),
            icon=":material/slideshow:",
            help="Slides in a new tab: the question, the answers of the class beside the truth, "
            "the figures, what to take home. The arrow keys go on and back.",
        )
        st.download_button(
            "All lessons for print (HTML)",
            data=lambda: handout([(one, default_values(one)) for one in catalogue.find_lessons()]),
            file_name="lessons.html",
            mime="text/html",
            on_click="ignore",
            icon=":material/print:",
            key="learn_print_all",
            help="One sheet of A4 for each lesson, with its figures and the right answer.",
        )
