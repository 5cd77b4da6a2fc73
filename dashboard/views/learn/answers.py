"""What a learner has answered: kept by the session, and by the browser over a reload.

The browser's memory is text such as "5f3a9c0e1b2d4876.steps-1.ruler-0": a name for the learner that
says nothing of him or her, and the index of the answer to each lesson.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import streamlit as st

from dashboard.session.notices import add_notice
from dashboard.session.state import session
from dashboard.views.learn.lesson import Lesson
from dashboard.widgets.browser_memory import remember, remembered

MEMORY = "lessons"
_LEARNER = re.compile(r"[0-9a-f]{16}")
_ANSWER = re.compile(r"([a-z0-9_]+)-(\d)")
_LONGEST_MEMORY = 2000


def hold_answers(lessons: Sequence[Lesson]) -> Mapping[str, int]:
    """Return the answers so far by the lessons' names, read from the browser at first."""
    here = session()
    if here.answers is None:
        learner, here.answers, notices = answers_from_text(remembered(MEMORY), lessons)
        here.learner = learner or here.learner
        for notice in notices:
            add_notice(notice)
        if notices:
            st.rerun()  # they stand above the page
    remember(MEMORY, answers_to_text(here.learner, here.answers))
    return here.answers


def give_answer(name: str, index: int) -> None:
    """Note an answer; for callbacks."""
    session().answers = {**(session().answers or {}), name: index}


def take_back_answer(name: str) -> None:
    """Forget the answer to one lesson, so that it asks again; for callbacks."""
    session().answers = {n: i for n, i in (session().answers or {}).items() if n != name}


def forget_answers() -> None:
    """Forget all answers; for callbacks."""
    session().answers = {}


def answers_to_text(learner: str, answers: Mapping[str, int]) -> str:
    """Return what the browser is to keep."""
    return ".".join([learner, *(f"{name}-{index}" for name, index in answers.items())])


def answers_from_text(
    text: str, lessons: Iterable[Lesson]
) -> tuple[str | None, dict[str, int], list[str]]:
    """Read what the browser kept; return learner, answers, and what to say of those left out."""
    known = {lesson.name: lesson for lesson in lessons}
    learner, *parts = text[:_LONGEST_MEMORY].split(".")
    if _LEARNER.fullmatch(learner) is None:
        return None, {}, []
    answers: dict[str, int] = {}
    notices: list[str] = []
    for part in parts:
        found = _ANSWER.fullmatch(part)
        lesson = known.get(found[1]) if found is not None else None
        if found is None or lesson is None:
            notices.append("An answer of yours belongs to a lesson that is gone. Left out.")
        elif int(found[2]) >= len(lesson.answers):
            notices.append(
                f"Your answer to “{lesson.title}” is not among its answers now. It asks again."
            )
        else:
            answers[lesson.name] = int(found[2])
    return learner, answers, notices
