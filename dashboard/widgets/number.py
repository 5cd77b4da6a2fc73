"""A number on a page: its name, its value, and what stands beside it without a verdict."""

from __future__ import annotations

from typing import Literal

import streamlit as st


def show_number(
    name: str,
    value: str,
    beside: str | None = None,
    help: str | None = None,
    width: Literal["stretch", "content"] = "stretch",
) -> None:
    """Draw a number; what stands beside it gets neither colour nor arrow."""
    st.metric(name, value, beside, delta_color="off", delta_arrow="off", help=help, width=width)
