"""What a class answered: counted in memory while the server runs, without names, and never stored.

A class is a random key in the links that a teacher hands out.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict

import streamlit as st

MOST_CLASSES, MOST_LESSONS, MOST_VOTERS = 64, 32, 500
_KEY = re.compile(r"[A-Za-z0-9_-]{8,32}")


def new_key() -> str:
    """Return a key that nobody guesses."""
    return secrets.token_urlsafe(9)


def is_key(text: str) -> bool:
    """Whether a text may be the key of a class."""
    return _KEY.fullmatch(text) is not None


class ClassVotes:
    """Answers by class, lesson and voter; safe for threads, and bounded.

    The class that was voted in least recently goes when there are too many. A voter has one vote
    per lesson: a later one replaces it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._classes: OrderedDict[str, dict[str, dict[str, int]]] = OrderedDict()

    def vote(self, key: str, lesson: str, voter: str, answer: int) -> bool:
        """Count an answer.

        Returns:
            Whether it counts; not where the class or the lesson has as many as are kept.
        """
        with self._lock:
            lessons = self._classes.setdefault(key, {})
            self._classes.move_to_end(key)
            while len(self._classes) > MOST_CLASSES:
                self._classes.popitem(last=False)
            if lesson not in lessons and len(lessons) >= MOST_LESSONS:
                return False
            voters = lessons.setdefault(lesson, {})
            if voter not in voters and len(voters) >= MOST_VOTERS:
                return False
            voters[voter] = answer
            return True

    def counts(self, key: str, lesson: str, answers: int) -> tuple[int, ...]:
        """Return how many gave each of so many answers."""
        with self._lock:
            given = list(self._classes.get(key, {}).get(lesson, {}).values())
        return tuple(given.count(index) for index in range(answers))


@st.cache_resource(max_entries=1, show_spinner=False)
def class_votes() -> ClassVotes:
    """Return the votes of all classes."""
    return ClassVotes()
