"""Messages that stay on every page until they are dismissed."""

from __future__ import annotations

import re

import streamlit as st

from dashboard.session.state import Notice, session
from dashboard.words.markdown import escape_markdown

MAX_NOTICES = 12
_LONGEST_WORD = 60
_ENDLESS = re.compile(rf"\S{{{_LONGEST_WORD + 20},}}")


def add_notice(text: str, level: str = "warning", *, topic: str = "") -> None:
    """Show a message from now on; the same message is shown once, endless words cut short.

    Args:
        text: One or two sentences.
        level: "info", "warning" or "error".
        topic: Replace what was said on this before; `drop_notices` takes it back.
    """
    if topic:
        drop_notices(topic)
    notice = Notice(level, _ENDLESS.sub(lambda word: f"{word[0][:_LONGEST_WORD]}…", text), topic)
    notices = session().notices
    if notice not in notices:
        notices.append(notice)
    del notices[:-MAX_NOTICES]


def drop_notices(topic: str) -> None:
    """Take back what was said on a topic: it no longer holds."""
    here = session()
    here.notices = [notice for notice in here.notices if notice.topic != topic]


def add_toast(text: str) -> None:
    """Say something in passing, wherever the page is scrolled to."""
    session().toast = text


def show_notices() -> None:
    """Draw the messages, each with a button that dismisses it, and what is said in passing."""
    here = session()
    if here.toast is not None:
        st.toast(escape_markdown(here.toast), icon=":material/info:")
    here.toast = None
    for index, notice in enumerate(here.notices):
        with st.container(
            horizontal=True, wrap=False, vertical_alignment="center", key=f"notice_{index}"
        ):
            draw = {"error": st.error, "info": st.info}.get(notice.level, st.warning)
            draw(escape_markdown(notice.text))  # it may repeat a link or a file
            st.button(
                "Dismiss",
                key=f"dismiss_{index}",
                icon=":material/close:",
                on_click=_dismiss,
                args=(notice,),
            )


def _dismiss(notice: Notice) -> None:
    here = session()
    here.notices = [other for other in here.notices if other != notice]
