"""From a term in the explanation of a figure or a column to the lesson that teaches it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard.session.link_widgets import open_next
from dashboard.session.state import LESSON_KEY
from dashboard.widgets.slides import is_presenting

LEARN_PAGE = "views/learn/learn.py"
MOST_LESSONS = 4
"""Lessons that one explanation leads to: those of the terms that come first."""


@dataclass(frozen=True, slots=True)
class LessonTerms:
    """A lesson as other pages know it.

    Attributes:
        name: Its key in the link.
        title: Its title.
        terms: Terms that it teaches.
    """

    name: str
    title: str
    terms: tuple[str, ...]


_LESSONS: dict[str, LessonTerms] = {}


def register_lessons(lessons: Iterable[LessonTerms]) -> None:
    """Make lessons known to the explanations of figures; those of the same name are replaced."""
    _LESSONS.update((lesson.name, lesson) for lesson in lessons)


def lessons_about(text: str, lessons: Mapping[str, LessonTerms] = _LESSONS) -> list[LessonTerms]:
    """Return the lessons whose terms a text uses, in the order in which it uses them.

    Example:
        >>> steps = LessonTerms("steps", "Where do numbers go?", ("LSB", "scale"))
        >>> [lesson.name for lesson in lessons_about("Errors in steps of the scales.", {"": steps})]
        ['steps']
    """
    places = {}
    for lesson in lessons.values():
        words = "|".join(map(re.escape, lesson.terms))
        found = re.search(rf"(?<!\w)(?:{words})s?(?!\w)", text, re.IGNORECASE) if words else None
        if found is not None:
            places[lesson.name] = (found.start(), lesson)
    ordered = sorted(places.values(), key=lambda place: place[0])
    return [lesson for _, lesson in ordered[:MOST_LESSONS]]


def show_lesson_links(text: str, *, key: str) -> None:
    """Draw a button to each lesson that teaches a term of a text; nothing where none does.

    Args:
        text: An explanation (Markdown).
        key: Name of what is explained, unique on its page.
    """
    for lesson in lessons_about(text):
        st.button(
            f"Lesson: {lesson.title}",
            key=f"{key}_lesson_{lesson.name}",
            type="tertiary",
            icon=":material/school:",
            on_click=open_next,
            args=(LEARN_PAGE, {LESSON_KEY: lesson.name}),
        )


def show_number_lessons(caption: str, *, key: str, labels: str = "") -> None:
    """Draw a caption below numbers, and beside it, behind a button, the lessons on their terms.

    Args:
        caption: What explains the numbers (Markdown); "" draws the button alone.
        key: Name of the numbers, unique on their page.
        labels: What they are called; lessons on that come first.
    """
    text = f"{labels}. {caption}"
    with st.container(horizontal=True, vertical_alignment="center", key=f"{key}_terms"):
        if caption:
            st.caption(caption, width="content")
        if lessons_about(text) and not is_presenting():
            with st.popover("Lessons", type="tertiary", icon=":material/school:"):
                show_lesson_links(text, key=key)


def show_column_lessons(columns: Mapping[str, Mapping[str, Any]], *, key: str) -> None:
    """Draw, below a table, a button to each lesson that teaches a term of its columns.

    The help of a column's heading closes before anything in it can be clicked.

    Args:
        columns: What each column is called, and its settings, "help" among them.
        key: Name of the table, unique on its page.
    """
    text = " ".join(f"{name}: {settings.get('help') or ''}" for name, settings in columns.items())
    if lessons_about(text):
        with st.container(horizontal=True, gap="small", key=f"{key}_lessons"):
            show_lesson_links(text, key=key)
