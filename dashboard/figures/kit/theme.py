"""One look for every figure: what the colours mean, and an empty figure to start from.

The colours are Okabe-Ito's, which stay apart under every common form of colour blindness, and each
one reads on white and on near-black. Colour is never the only mark: clipped values are
labelled and stand apart, dequantized bars are narrow, ideals are dotted.

Figures carry their own template, so they look the same in a file as on a page; on a page Streamlit
replaces text and grid colours by those of the light or dark theme.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

FLOAT = "#0072B2"
INT8 = "#E69F00"
ERROR = "#CC79A7"
CLIPPED = "#D55E00"
GOOD = "#009E73"
HIGHLIGHT = "#56B4E9"
NEUTRAL = "#7C8694"
"""Guides, ideals and reference lines; reads on both backgrounds."""

INT8_EDGE = "#B87E00"
ERROR_EDGE = "#A85A86"
CLIPPED_EDGE = "#C04F00"

EDGES = {INT8: INT8_EDGE, ERROR: ERROR_EDGE}
"""The edge that a dot of a colour has by itself."""

TEXT = "#1B2430"
_GRID = "rgba(124, 134, 148, 0.28)"
_FONT = (
    "Source Sans, Source Sans 3, Source Sans Pro, system-ui, -apple-system, Segoe UI, sans-serif"
)

_TITLE_HEIGHT = 34
_TITLE_LINE = 18
DEFAULT_HEIGHT = 340
MARGIN = {"l": 64, "r": 16, "t": 76, "b": 56}

_AXIS: dict[str, Any] = {
    "gridcolor": _GRID,
    "zeroline": False,
    "linecolor": NEUTRAL,
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
    "tickfont": {"size": 12},
}

# Without this, a click fades every other mark for as long as the figure stands.
_KEEP_UNSELECTED = {"unselected": {"marker": {"opacity": 1.0}}}

TEMPLATE: dict[str, Any] = {
    "data": {"bar": [_KEEP_UNSELECTED], "scatter": [_KEEP_UNSELECTED]},
    "layout": {
        "font": {"family": _FONT, "size": 13, "color": TEXT},
        "colorway": [FLOAT, INT8, ERROR, CLIPPED, GOOD, HIGHLIGHT, NEUTRAL],
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"align": "left"},
        "title": {"x": 0, "xanchor": "left", "font": {"size": 15}},
    },
}
"""Set on every figure, so that no library's default or another template shows through."""


def axis(title: str = "", **settings: Any) -> dict[str, Any]:
    """Return an axis with a title that carries its unit.

    Args:
        title: Quantity and unit, such as "Error (LSB)".
        settings: Any of Plotly's axis settings.
    """
    return {"title": {"text": title}, **settings}


def new_figure(
    title: str,
    x_title: str = "",
    y_title: str = "",
    *,
    traces: Sequence[Mapping[str, Any]] = (),
    height: int = DEFAULT_HEIGHT,
    x_axis: Mapping[str, Any] | None = None,
    y_axis: Mapping[str, Any] | None = None,
    shapes: Sequence[Mapping[str, Any]] = (),
    annotations: Sequence[Mapping[str, Any]] = (),
    layout: Mapping[str, Any] | None = None,
) -> go.Figure:
    """Return a figure in the common look, built at once from plain dicts.

    Adding traces and shapes one by one makes Plotly check the whole figure every time, which takes
    seconds for a figure of many layers.

    Args:
        title: Quantity and unit.
        x_title: Title of the x axis, with its unit.
        y_title: Title of the y axis, with its unit.
        traces: Plotly traces as dicts, each with its `type`.
        height: Height in pixels; the width is the page's.
        x_axis: More settings of the x axis.
        y_axis: More settings of the y axis.
        shapes: Plotly shapes as dicts.
        annotations: Plotly annotations as dicts.
        layout: More layout settings, such as further axes; they win.
    """
    merged: dict[str, Any] = {
        "template": TEMPLATE,
        "title": {
            "text": title,
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 8 + 10 * title.count("<br>")},  # Plotly lifts a second line otherwise
        },
        "height": height,
        "margin": dict(MARGIN),
        "xaxis": axis(x_title, **(x_axis or {})),
        "yaxis": axis(y_title, **(y_axis or {})),
        "legend": _legend(title, height),
        "shapes": [dict(shape) for shape in shapes],
        "annotations": [dict(note) for note in annotations],
        "bargap": 0,
        "hovermode": "closest",
        "dragmode": "zoom",
        **(layout or {}),
    }
    return go.Figure({"data": [dict(trace) for trace in traces], "layout": merged})


def _legend(title: str, height: int) -> dict[str, Any]:
    """A legend over the whole width, right below the title's lines.

    Both of its references are the container: then Plotly moves the plot down for every row the
    legend needs. With any other reference it squeezes the plot, or writes over the title.
    """
    below_title = _TITLE_HEIGHT + _TITLE_LINE * title.count("<br>")
    place = {"xref": "container", "x": 0.01, "xanchor": "left", "yref": "container"}
    place |= {"y": max(0.0, 1 - below_title / height), "yanchor": "top"}
    return {"orientation": "h", **place, "itemsizing": "constant", "title": {"text": ""}}


def empty_figure(title: str, reason: str) -> go.Figure:
    """Return a figure that says in words why there is nothing to draw."""
    hidden = {"visible": False}
    text = "<br>".join(textwrap.wrap(reason, 52))
    words = note(text, 0.5, 0.5, size=14, xref="paper", yref="paper")
    return new_figure(title, height=160, x_axis=hidden, y_axis=hidden, annotations=[words])


def vertical_line(x: float, *, color: str = NEUTRAL, dash: str = "dot") -> dict[str, Any]:
    """Return a shape: a line over the whole height of the plot."""
    line = {"color": color, "width": 1.5, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def shade(x0: float, x1: float, opacity: float, **more: Any) -> dict[str, Any]:
    """Return a shape: red ground between two places, over the whole height of the plot."""
    place = {"type": "rect", "x0": x0, "x1": x1, "yref": "paper", "y0": 0, "y1": 1}
    return {**place, "fillcolor": CLIPPED, "opacity": opacity, "line": {"width": 0}, **more}


def label(x: float, text: str, *, anchor: str = "left", y: float = 1.0) -> dict[str, Any]:
    """Return an annotation beside a vertical line, inside the plot's upper edge."""
    return note(text, x, y, yref="paper", yanchor="top", xanchor=anchor)


def note(text: str, x: float, y: float, *, size: float = 12, **more: Any) -> dict[str, Any]:
    """Return an annotation without an arrow; `more` are Plotly's own settings, such as `xref`."""
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": {"size": size}, **more}
