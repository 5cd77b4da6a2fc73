"""What a table does when one of its rows is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st


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
