"""A figure on a page: its result in a sentence, the picture, what it means, and its numbers.

Every page shows its figures through `show_figure`, so each of them opens with what it says, has
that text for those who cannot see it, a short explanation, and a download of its data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import streamlit as st

from dashboard.export.tables import table, to_csv
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.presenting import HEIGHT, enlarge
from dashboard.session import run_state
from dashboard.widgets.lesson_links import show_lesson_links
from dashboard.widgets.slides import is_on_screen, is_presenting
from dashboard.words.markdown import escape_markdown

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2},
}
"""Toolbar: a PNG in print resolution, zoom, pan, reset and full screen."""


def show_figure(
    picture: Picture,
    *,
    key: str,
    stem: str = "",
    on_select: Callable[[str], None] | None = None,
    taken: int = 0,
    is_lesson: bool = False,
) -> None:
    """Show a figure under its result in words, with an explanation and a download of its data.

    In presenter mode only the figure whose turn it is appears, larger.

    Args:
        picture: What to show.
        key: Name of the figure, unique on its page.
        stem: What it is about, such as the model: its files begin with it.
        on_select: Called with the layer of the bar or point that was clicked.
        is_lesson: Whether a lesson shows it: then no lesson is offered to explain its terms.
        taken: Pixels of the screen that something else takes in presenter mode.
    """
    if not is_on_screen(key):
        return
    file_name = file_stem(f"{stem}-{picture.name}")
    image = {**CONFIG["toImageButtonOptions"], "filename": file_name}
    config = {**CONFIG, "toImageButtonOptions": image}
    figure = picture.figure

    def forward() -> None:
        name = selected_name(st.session_state.get(key))
        if name is not None and on_select is not None:
            on_select(name)

    if is_presenting():
        figure = enlarge(figure, HEIGHT - taken)
    with st.container(key=f"figure_{key}", gap="xsmall"):
        st.markdown(f"**{escape_markdown(picture.alt)}**")
        st.plotly_chart(
            figure,
            width="stretch",
            key=key,
            config=config,
            alt=picture.alt,
            on_select="ignore" if on_select is None else forward,
            selection_mode="points",
        )
        with st.container(
            horizontal=True, gap="small", vertical_alignment="center", key=f"aside_{key}"
        ):
            with st.popover("What am I seeing?", type="tertiary", icon=":material/help:"):
                st.markdown("\n\n".join(picture.about))
                if not is_lesson:
                    said = (*picture.about, picture.alt, picture.figure.layout.title.text or "")
                    show_lesson_links(" ".join(said), key=key)
            st.download_button(
                "Data (CSV)",
                data=lambda: to_csv(table(picture.rows())),
                file_name=f"{file_name}.csv",
                mime="text/csv",
                on_click="ignore",
                type="tertiary",
                icon=":material/download:",
                key=f"{key}_csv",
            )


def show_layer_figure(picture: Picture, key: str, stem: str) -> None:
    """Show a figure whose marks are layers: clicking one selects it. Arguments as `show_figure`."""
    show_figure(picture, key=key, stem=stem, on_select=run_state.select_layer)


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
