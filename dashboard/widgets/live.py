"""A part of a page that draws itself again on a clock, while the rest stands still."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st


def show_live(draw: Callable[[], None], *, key: str, run_every: float | None) -> None:
    """Draw a part of the page now, and again every so many seconds.

    The part gets a container of its own, which belongs to the page. When the clock ticks just as
    the page has been drawn, Streamlit drops what it has not sent of the part, for the tick draws
    that anew; whatever stands behind it on the page goes to the browser first. Without a container
    to hold the part's place, the browser then finds a gap where it does not allow one, and the
    whole page turns blank. Nothing else may be drawn into the container.

    Args:
        draw: Draws the part; may call `st.rerun` to draw the whole page.
        key: Name of the container, unique on the page.
        run_every: Seconds between two drawings; None draws once.
    """
    with st.container(key=key):
        st.fragment(run_every=run_every)(draw)()
