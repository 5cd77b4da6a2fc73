"""The pages in the order of the navigation, and links to them."""

from __future__ import annotations

import streamlit as st

PAGES = {
    "start": ("Start", ":material/home:"),
    "experiment": ("Experiment", ":material/science:"),
    "sensitivity": ("Sensitivity", ":material/leaderboard:"),
    "what_if": ("What if", ":material/tune:"),
    "layer": ("Layer", ":material/layers:"),
    "compare": ("Compare", ":material/compare_arrows:"),
    "size_time": ("Size & time", ":material/speed:"),
    "learn": ("Learn", ":material/school:"),
}
"""Name of a page -> its title and icon."""


def page_file(name: str) -> str:
    """Return the file of a page, as Streamlit knows it."""
    return f"views/{name}/{name}.py"


def show_page_link(name: str, label: str = "") -> None:
    """Draw a link to a page, with its icon; it says the page's title if nothing else is given."""
    title, icon = PAGES[name]
    st.page_link(page_file(name), label=label or title, icon=icon)
