"""A lesson as a learner sees it, without a page."""

from __future__ import annotations

from dashboard.views.learn.catalogue import default_values
from dashboard.views.learn.lesson import Lesson, Outcome


def shown(lesson: Lesson, **chosen: str) -> Outcome:
    """Return what a lesson shows; controls that are not chosen stand where they begin."""
    return lesson.show({**default_values(lesson), **chosen})
