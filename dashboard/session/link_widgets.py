"""The widgets that hold the link: giving them values, and changing page without losing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import streamlit as st
from streamlit.errors import StreamlitAPIException

from dashboard.session.state import LAYER_KEY, PRESENT_KEY, RUN_KEY, session


def apply_pending() -> None:
    """Give widgets the values that were set after they had been drawn."""
    here = session()
    st.session_state.update(here.pending)
    here.pending = {}


def set_later(key: str, value: Any) -> None:
    """Give a widget a value at the next script run."""
    session().pending[key] = value


def set_widget(key: str, value: Any) -> None:
    """Give a widget of the shell a value, now in a callback, else at the next script run."""
    try:
        st.session_state[key] = value
    except StreamlitAPIException:  # its widget is drawn already
        set_later(key, value)
        st.rerun()


def rerun_outside_callback() -> None:
    """Draw the page again; after a callback that happens anyway."""
    try:
        st.session_state[RUN_KEY] = st.session_state.get(RUN_KEY, "")
    except StreamlitAPIException:
        st.rerun()


def open_next(page: str, words: Mapping[str, str] | None = None) -> None:
    """Open a page such as "views/layer/layer.py" when the page is drawn next; for callbacks.

    A callback cannot change the page, and what a button returns is lost when the page is drawn
    again before it gets there, as it is when a job ends.

    Args:
        page: Its file.
        words: What its link is to say; the run and the layer stay if this does not name them.
    """
    here = session()
    here.destination, here.destination_words = page, dict(words or {})


def leave_if_asked() -> None:
    """Open the page that a callback asked for; before anything of the present one is drawn.

    A live part of the page that is left would ask for its next drawing after the new page has
    come, and Streamlit would then mix the two.
    """
    here = session()
    page, here.destination = here.destination, None
    if page is not None:
        go_to(page, here.destination_words)


def go_to(page: str, words: Mapping[str, str] | None = None) -> NoReturn:
    """Open a page such as "views/layer/layer.py" with the same run and layer; not in a callback.

    Args:
        page: Its file.
        words: What its link is to say.
    """
    others, here = dict(words or {}), session()
    here.layer_of_link = others.get(LAYER_KEY, here.layer_of_link)  # the run may be another one
    for key in (RUN_KEY, LAYER_KEY, PRESENT_KEY):
        if key in others:  # its widget holds it already: Streamlit takes no other word for it
            here.pending[key] = others.pop(key)
        elif key in st.session_state:
            here.pending.setdefault(key, st.session_state[key])
    # A mapping always: with None, Streamlit refuses to leave a page with bound keys.
    st.switch_page(page, query_params=others)
