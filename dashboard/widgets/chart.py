"""A figure on a page: its result in a sentence, the picture, what it means, and its numbers.

Every page shows its figures through `show_figure`, so each of them opens with what it says, has
that text for those who cannot see it, a short explanation, and a download of its data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import plotly.graph_objects as go
import streamlit as st

from dashboard.export.tables import Table, to_csv
from dashboard.figures.kit.presenting import enlarge
from dashboard.widgets.slides import is_on_screen, is_presenting
from dashboard.words.markdown import escape_markdown

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2},
}
"""Toolbar: a PNG in print resolution, zoom, pan, reset and full screen."""

TableOrMaker: TypeAlias = Table | Callable[[], Table]


def show_figure(
    figure: go.Figure,
    *,
    key: str,
    alt: str,
    about: str,
    data: TableOrMaker | None = None,
    on_select: Callable[[str], None] | None = None,
    file_name: str | None = None,
) -> None:
    """Show a figure under its result in words, with an explanation and a download of its data.

    In presenter mode only the figure whose turn it is appears, larger.

    Args:
        figure: What to draw.
        key: Name of the figure, unique on its page.
        alt: The result in one sentence: stands above the figure, and in place of it for those who
            cannot see it.
        about: "What am I seeing?" in three short lines (Markdown).
        data: The numbers of the figure, or a function that returns them when they are asked for.
        on_select: Called with the layer of the bar or point that was clicked. A trace names its
            layers in `customdata`, alone or as the first entry of a row.
        file_name: Name of the download without its ending; the key if not given.
    """
    if not is_on_screen(key):
        return
    config = {
        **CONFIG,
        "toImageButtonOptions": {
            **CONFIG["toImageButtonOptions"],
            "filename": file_stem(file_name or key),
        },
    }
    if is_presenting():
        figure = enlarge(figure)
    with st.container(key=f"figure_{key}", gap="xsmall"):
        st.markdown(f"**{escape_markdown(alt)}**")
        if on_select is None:
            st.plotly_chart(figure, width="stretch", key=key, config=config, alt=alt)
        else:
            st.plotly_chart(
                figure,
                width="stretch",
                key=key,
                config=config,
                alt=alt,
                on_select=lambda: _forward_selection(key, on_select),
                selection_mode="points",
            )
        with st.container(
            horizontal=True, gap="small", vertical_alignment="center", key=f"aside_{key}"
        ):
            with st.popover("What am I seeing?", type="tertiary", icon=":material/help:"):
                st.markdown(about)
            if data is not None:
                st.download_button(
                    "Data (CSV)",
                    data=lambda: csv_bytes(data),
                    file_name=f"{file_stem(file_name or key)}.csv",
                    mime="text/csv",
                    on_click="ignore",
                    type="tertiary",
                    icon=":material/download:",
                    key=f"{key}_csv",
                )


def csv_bytes(data: TableOrMaker) -> bytes:
    """Return a table, or what a function returns, as CSV."""
    return to_csv(data() if callable(data) else data)


def file_stem(name: str) -> str:
    """Return a name that is safe as a file name on every system.

    Example:
        >>> file_stem("resnet: layer1.0/conv1")
        'resnet-layer1.0-conv1'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "figure"


def selected_name(event: Any) -> str | None:
    """Return the layer that a chart's selection names, or None where nothing is selected.

    Example:
        >>> selected_name({"selection": {"points": [{"customdata": ["conv1", 3]}]}})
        'conv1'
    """
    points = (event or {}).get("selection", {}).get("points", [])
    for point in points:
        custom = point.get("customdata")
        if isinstance(custom, dict):  # the browser turns some arrays into {"0": ..., "1": ...}
            custom = custom.get("0")
        elif isinstance(custom, list | tuple):
            custom = custom[0] if custom else None
        if isinstance(custom, str) and custom:
            return custom
    return None


def _forward_selection(key: str, on_select: Callable[[str], None]) -> None:
    name = selected_name(st.session_state.get(key))
    if name is not None:
        on_select(name)
