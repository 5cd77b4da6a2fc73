"""Lessons as a file that prints: the sheets of the lessons that are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.export.handout import Sheet, handout_to_html
from dashboard.views.learn import catalogue
from dashboard.views.learn.catalogue import find_outcome
from dashboard.views.learn.lesson import Lesson, Values


def handout(pairs: Sequence[tuple[Lesson, Values]]) -> bytes:
    """Return lessons, each with what its controls say, as HTML that prints one sheet per lesson."""
    numbers = {lesson.name: n for n, lesson in enumerate(catalogue.find_lessons(), start=1)}
    sheets = []
    for lesson, values in pairs:
        outcome, asked = find_outcome(lesson, values), catalogue.answered_by(lesson)
        title = f"{numbers[lesson.name]}. {lesson.title}"
        question = (lesson.text, lesson.question, lesson.answers, asked.right, asked.truth)
        answer = (outcome.pictures, outcome.insight, outcome.computed)
        sheets.append(Sheet(title, *question, *answer))
    return handout_to_html(sheets)
