"""Choices: one of a few words, which the link holds, how many layers, a row of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from dashboard.session.link_check import check_link_word

TOPS = {"10": 10, "20": 20, "50": 50, "all": None}


def choose_top(key: str, default: str, help: str) -> int | None:
    """Draw a list of how many layers are shown; return the number, None for all."""
    check_link_word(key, list(TOPS))
    chosen = st.selectbox(
        "Layers shown",
        list(TOPS),
        index=list(TOPS).index(default),
        key=key,
        bind="query-params",
        width=140,
        help=help,
    )
    return TOPS[chosen]


def choose(
    label: str, words: Sequence[str], key: str, *, default: str = "", help: str | None = None
) -> str:
    """Draw the words side by side; return the chosen one.

    Args:
        label: What is chosen.
        words: What can be; a link that names another one is told so.
        key: Key of the widget, and of the link.
        default: The usual one; the first if empty.
        help: What the choice means.
    """
    check_link_word(key, words)
    usual = default or words[0]
    chosen = st.segmented_control(
        label, words, default=usual, required=True, key=key, bind="query-params", help=help
    )
    return chosen if chosen in words else usual


def select_row(key: str, names: Sequence[str], choose: Callable[[str], None]) -> Callable[[], None]:
    """Return what a table calls: it hands on the name of the chosen row.

    Args:
        key: Key of the table.
        names: What each row is about.
        choose: Called with the name.
    """

    def forward() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows and rows[0] < len(names):
            choose(names[rows[0]])

    return forward
