"""Presenter mode: one figure per screen, and keys that go from one to the next, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import streamlit as st

from dashboard.session.link_widgets import open_next
from dashboard.session.state import PRESENT_KEY, session

ARROWS = (
    ("Previous", "Left", ":material/chevron_left:", -1),
    ("Next", "Right", ":material/chevron_right:", 1),
)
"""The two buttons that go back and on: label, key of the keyboard, icon, step."""
ASSETS = Path(__file__).resolve().parents[1] / "assets"


def is_presenting() -> bool:
    """Whether presenter mode is on."""
    return bool(st.session_state.get(PRESENT_KEY))


def show_slide_bar(files: Sequence[str], index: int) -> None:
    """Begin a page in presenter mode: its style, and the buttons that the arrow keys press.

    Args:
        files: All pages, in the order they are shown.
        index: The present one among them.
    """
    if not is_presenting():
        return
    here = session()
    if here.slides_page != files[index]:
        here.slides_page, here.slides_part, here.slide = files[index], "", 0
    here.slides, here.slides_turn = [], None
    st.html(ASSETS / "present.css")
    with st.container(horizontal=True, key="slide_bar", vertical_alignment="center"):
        for label, key, icon, step in ARROWS:
            st.button(
                label,
                key=f"slide_{label.lower()}",
                icon=icon,
                shortcut=key,
                disabled=(step < 0 and index == 0 and here.slide == 0),
                on_click=_step,
                args=(step, tuple(files), index),
            )
        st.button(
            "Leave",
            key="slide_leave",
            icon=":material/close_fullscreen:",
            shortcut="Esc",
            on_click=_leave,
        )


def begin_slides(part: str, turn: Callable[[int], bool]) -> None:
    """Begin with the first figure where the page shows another part of itself than before.

    Args:
        part: What the page shows.
        turn: Shows the part before (-1) or after (1); returns whether there is one.
    """
    here = session()
    here.slides_turn = turn
    if here.slides_part != part:
        here.slides_part, here.slide = part, 0


def is_on_screen(key: str) -> bool:
    """Whether to draw this figure: always, but in presenter mode only the one whose turn it is."""
    if not is_presenting():
        return True
    here = session()
    if key not in here.slides:
        here.slides.append(key)
    return here.slides.index(key) == here.slide


def _step(step: int, files: tuple[str, ...], index: int) -> None:
    """Show the next figure, or the next page where this one has no more."""
    here = session()
    if 0 <= here.slide + step < len(here.slides):
        here.slide += step
    elif here.slides_turn is not None and here.slides_turn(step):
        return
    elif 0 <= index + step < len(files):
        open_next(files[index + step])


def _leave() -> None:
    st.session_state[PRESENT_KEY] = False
