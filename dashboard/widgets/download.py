"""A file to download, built when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import streamlit as st

KINDS = {
    ".csv": ("text/csv", ":material/table:"),
    ".html": ("text/html", ":material/description:"),
    ".json": ("application/json", ":material/data_object:"),
}
"""Media type and icon by the end of the file's name."""


def offer_file(
    label: str, file_name: str, build: Callable[[], bytes | str], help: str | None = None
) -> None:
    """Draw the button that builds a file and hands it out; the page is not run for it."""
    mime, icon = KINDS[PurePath(file_name).suffix]
    st.download_button(label, build, file_name, mime, help=help, on_click="ignore", icon=icon)
