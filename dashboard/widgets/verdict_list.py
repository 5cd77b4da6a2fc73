"""Verdicts on a page: an icon, what it is about, and the sentence."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from dashboard.facts.diagnosis.verdicts import BAD, GOOD, INFO, WATCH, Verdict
from dashboard.session.link_widgets import set_widget
from dashboard.words.markdown import escape_markdown

_MARKS = {
    GOOD: ":green[:material/check_circle:]",
    WATCH: ":orange[:material/warning:]",
    BAD: ":red[:material/error:]",
    INFO: ":blue[:material/info:]",
}


def show_verdicts(verdicts: Iterable[Verdict | None], *, key: str = "") -> None:
    """Draw verdicts below each other; None is skipped.

    Args:
        verdicts: The statements.
        key: Name of the list; with one, statements about channels get a button that opens them.
    """
    found = [verdict for verdict in verdicts if verdict is not None]
    lines = [
        f"{_MARKS[verdict.tone]} **{escape_markdown(verdict.subject)}** "
        f"{escape_markdown(verdict.text)}"
        for verdict in found
    ]
    if lines:
        st.markdown("\n\n".join(lines))
    opened = dict.fromkeys(verdict.opens for verdict in found if verdict.opens and key)
    with st.container(horizontal=True, gap="small"):
        for part in opened:
            st.button(
                f"Open the channels of the {part.lower()}",
                key=f"{key}_{part.lower()}",
                icon=":material/view_week:",
                on_click=open_channels,
                args=(part,),
            )


def open_channels(part: str) -> None:
    """Open the channels of a layer's "Weights" or "Inputs" on the Layer page; for callbacks."""
    set_widget("part", part)
    set_widget("tab", "Channels")
