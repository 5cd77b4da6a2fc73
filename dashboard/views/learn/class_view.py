"""The class that a link belongs to: its answers are counted, and shown next to the truth."""

from __future__ import annotations

import streamlit as st

from dashboard.data.link_words import shorten
from dashboard.figures.learn.class_answers import class_answers_picture
from dashboard.session.notices import add_notice
from dashboard.session.state import CLASS_KEY, session
from dashboard.views.learn.class_votes import class_votes, is_key
from dashboard.views.learn.lesson import Lesson
from dashboard.widgets.chart import show_figure
from dashboard.widgets.live import show_live
from dashboard.widgets.slides import is_presenting
from dashboard.words.formatting import plural

POLL_SECONDS = 2.0
"""Seconds after which the counts are drawn again; a drawing reads a few numbers from memory."""


def class_key() -> str | None:
    """Return the key of the class that the link belongs to, or None."""
    text = st.query_params.get(CLASS_KEY, "")
    return text if is_key(text) else None


def check_class_link() -> None:
    """Say so if the link's class is none, and take the word out of the link."""
    if CLASS_KEY in st.query_params and class_key() is None:
        text = st.query_params[CLASS_KEY]
        add_notice(
            f"The link's class is “{shorten(text)}”, which is no key of a class. Your answers are "
            "not counted: ask for the link again."
        )
        del st.query_params[CLASS_KEY]
        st.rerun()


def count_answer(lesson: Lesson, index: int) -> None:
    """Count an answer where the link belongs to a class; not the one that is clicked on slides."""
    key = class_key()
    if key is not None and not is_presenting():
        class_votes().vote(key, lesson.name, session().learner, index)


def show_class(lesson: Lesson, right: int | None) -> None:
    """Draw what the class answered, live; nothing where the link belongs to none.

    Args:
        lesson: What was asked.
        right: Index of the right answer; None draws only how many have answered.
    """
    key = class_key()
    if key is None:
        return

    def draw() -> None:
        counts = class_votes().counts(key, lesson.name, len(lesson.answers))
        if right is None or not sum(counts):
            st.caption(f"Class: {plural(sum(counts), 'answer')} so far.")
        else:
            picture = class_answers_picture(lesson.answers, counts, right)
            show_figure(picture, key="learn_class", stem=f"lesson-{lesson.name}", is_lesson=True)

    show_live(draw, key="live_class", run_every=POLL_SECONDS)
