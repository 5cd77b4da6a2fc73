"""What a session remembers from one script run to the next: every name, its type and its default.

Beside this, `st.session_state` holds what widgets say, under the widgets' own keys; those of the
shell, which every page draws or reads, stand here too.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from dashboard.data.settings import Settings

RUN_KEY = "run"
LAYER_KEY = "layer"
PRESENT_KEY = "present"
DRAFT_KEY = "draft"
WHAT_IF_KEY = "whatif"
A_KEY, B_KEY = "a", "b"
LESSON_KEY, SHOW_KEY, CLASS_KEY = "lesson", "show", "class"

Pair = tuple[Settings, Settings]
"""Settings of two runs of which one came first: A | B, before | after."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the person.

    Attributes:
        level: "info", "warning" or "error".
        text: One or two sentences, shown as they are.
        topic: What it is about, where only the latest word on that counts.
    """

    level: str
    text: str
    topic: str = ""


@dataclass(slots=True)
class Session:
    """One viewer's session; changed in place."""

    # The run: what the link said when it was last followed, what was asked for, what is shown, and
    # what was shown before that.
    link_seen: str | None = None
    wanted: Settings | None = None
    shown_id: str | None = None
    shown_before: Settings | None = None

    # The layer: named by the link and not settled yet, looked at by default, chosen by hand.
    layer_of_link: str | None = None
    default_layer: str | None = None
    chosen_layer: str | None = None

    # Compare: the two runs shown last, as the link holds them; two to show once both are known.
    # Before and after: a re-run, while it is offered to be compared; the last remedy that was run,
    # which stands beside the run it was started from whatever else is run.
    compared: tuple[str, str] | None = None
    to_compare: Pair | None = None
    rerun: Pair | None = None
    remedied: Pair | None = None

    # The run that a chain of remedies is under way for.
    repairing: Settings | None = None

    # The draft: as it is, as the form's widgets began, what had been asked for then, how many.
    draft: Settings | None = None
    draft_start: Settings | None = None
    draft_base_id: str | None = None
    draft_version: int = 0
    is_draft_link_read: bool = False

    # Messages; words of the link, by key, that one was about; results not saved, by kind.
    notices: list[Notice] = field(default_factory=list)
    toast: str | None = None
    checked_link_words: set[tuple[str, str]] = field(default_factory=set)
    unsaved: dict[str, int] = field(default_factory=dict)

    # Background work: the name that the queue is fair to, and the keys of the jobs watched.
    visitor: str = field(default_factory=lambda: secrets.token_hex(8))
    watched_jobs: list[str] = field(default_factory=list)

    # For the next script run: values of widgets by key, the page to open, the words of its link.
    pending: dict[str, Any] = field(default_factory=dict)
    destination: str | None = None
    destination_words: dict[str, str] = field(default_factory=dict)

    # Presenter mode: the page, its figures, and the index of the one on screen; which part of the
    # page they are, and what shows the part before or after.
    slides_page: str | None = None
    slides: list[str] = field(default_factory=list)
    slide: int = 0
    slides_part: str = ""
    slides_turn: Callable[[int], bool] | None = None

    # What if: the run that was drawn last and the configuration its link had; the job that runs
    # what a search found, and whether the page still waits for it. Sensitivity: the layers that
    # were ticked.
    what_if_run: str | None = None
    what_if_text: str = ""
    what_if_search: str = ""
    is_search_awaited: bool = False
    ticked_layers: tuple[str, ...] = ()

    # Learn: the index of the answer to each lesson, None before the browser's memory is read; the
    # name under which the learner's answers count; the key of the class that a teacher made.
    answers: dict[str, int] | None = None
    learner: str = field(default_factory=lambda: secrets.token_hex(8))
    class_key: str = ""

    # Learn: the name of the lesson to open when the page is drawn next.
    next_lesson: str | None = None


def session() -> Session:
    """Return the session of the viewer whose script runs."""
    found: Session = st.session_state.setdefault("session", Session())
    return found
