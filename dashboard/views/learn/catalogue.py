"""The lessons there are, and what the engine says in each: found once, computed once for all."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import streamlit as st

from dashboard.views.learn import lessons
from dashboard.views.learn.lesson import Lesson, Outcome, Values
from dashboard.widgets.lesson_links import LessonTerms

MOST_OUTCOMES = 256
"""Outcomes kept for everybody: about ten lessons with every choice of their controls."""


@functools.cache
def find_lessons() -> tuple[Lesson, ...]:
    """Return every lesson, in the order of its file's name."""
    modules = sorted(module.name for module in pkgutil.iter_modules(lessons.__path__))
    found = (importlib.import_module(f"{lessons.__name__}.{name}") for name in modules)
    return tuple(module.LESSON for module in found)


def lesson_terms() -> tuple[LessonTerms, ...]:
    """Return what other pages know of the lessons."""
    return tuple(LessonTerms(one.name, one.title, one.terms) for one in find_lessons())


def default_values(lesson: Lesson) -> dict[str, str]:
    """Return what the controls say at first."""
    return {control.name: control.default for control in lesson.controls}


def find_outcome(lesson: Lesson, values: Values) -> Outcome:
    """Return what the engine says; visitors who ask for the same at once wait for one computation.

    The outcome belongs to all of them: nobody may change it.
    """
    given = tuple(values[control.name] for control in lesson.controls)
    return _outcome(lesson.name, given, lesson)


@st.cache_resource(max_entries=MOST_OUTCOMES, show_spinner=False)
def _outcome(name: str, given: tuple[str, ...], _lesson: Lesson) -> Outcome:
    names = (control.name for control in _lesson.controls)
    return _lesson.show(dict(zip(names, given, strict=True)))


def answered_by(lesson: Lesson) -> Outcome:
    """Return the outcome that answers the lesson's question: its controls at their defaults."""
    return find_outcome(lesson, default_values(lesson))
