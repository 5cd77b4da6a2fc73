"""Verdicts on a page: an icon, what it is about, and the sentence."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from dashboard.components.markdown import escape_markdown
from dashboard.verdicts import BAD, GOOD, INFO, WATCH, Verdict

_MARKS = {
    GOOD: ":green[:material/check_circle:]",
    WATCH: ":orange[:material/warning:]",
    BAD: ":red[:material/error:]",
    INFO: ":blue[:material/info:]",
}


def show_verdicts(verdicts: Iterable[Verdict | None]) -> None:
    """Draw verdicts below each other; None is skipped."""
    lines = [
        f"{_MARKS[verdict.tone]} **{escape_markdown(verdict.subject)}** "
        f"{escape_markdown(verdict.text)}"
        for verdict in verdicts
        if verdict is not None
    ]
    if lines:
        st.markdown("\n\n".join(lines))
