"""Figures for a projector: text that the last row reads, and a height that fills the screen."""

from __future__ import annotations

import re
from typing import Any

import plotly.graph_objects as go

FACTOR = 22 / 12
"""The smallest text of a figure, 12 px, becomes 22 px."""
LEAST_PIXELS = 22
HEIGHT = 760
"""Pixels that a screen 1080 pixels high leaves for a figure under its sentence."""
ROW_PIXELS = 30
_USUAL_FONT = 12


def enlarge(figure: go.Figure, height: float = HEIGHT) -> go.Figure:
    """Return a copy with larger text, wider margins, and the height of a screen.

    A figure with more rows than fit one above the other at this size is higher.

    Example:
        >>> enlarge(go.Figure(layout={"font": {"size": 12}, "height": 400})).layout.font.size
        22
    """
    spec: dict[str, Any] = figure.to_dict()
    layout: dict[str, Any] = spec["layout"]
    template: dict[str, Any] = layout.get("template", {}).get("layout", {})
    layout["margin"] = {
        side: value * FACTOR if isinstance(value, int | float) else value
        for side, value in layout.get("margin", {}).items()
    }
    before = layout.get("height")
    layout["height"] = max(height, _height_of_rows(layout))
    legend = layout.setdefault("legend", {})
    if before and legend.get("yref") == "container":  # a share of the height, below the title
        legend["y"] = 1 - (1 - legend["y"]) * before * FACTOR / layout["height"]
    _scale_font(layout, template)
    for trace in spec["data"]:
        for key in ("textfont", "insidetextfont", "outsidetextfont"):
            if key in trace:
                _scale_font(trace, {}, key=key)
    _scale_pixels(layout.setdefault("title", {}))
    _scale_font(layout.setdefault("title", {}), template.get("title", {}), 17)
    _scale_font(layout.setdefault("legend", {}), template.get("legend", {}))
    axes = [name for name in layout if name.startswith(("xaxis", "yaxis"))]
    for name in axes:
        usual = template.get(name[:5], {})
        _scale_font(layout[name], usual, key="tickfont")
        _scale_font(layout[name].setdefault("title", {}), usual.get("title", {}))
    for note in layout.get("annotations", ()):
        _scale_font(note, {})
    for shape in layout.get("shapes", ()):
        if "label" in shape:
            _scale_font(shape["label"], {})
    return go.Figure(spec)


def _height_of_rows(layout: dict[str, Any]) -> float:
    """Return the height at which the labels of a figure's rows do not touch."""
    rows = len(layout.get("yaxis", {}).get("tickvals") or ())
    margin = layout["margin"]
    return ROW_PIXELS * rows + sum(margin.get(side, 0) for side in ("t", "b"))


def _scale_pixels(title: dict[str, Any]) -> None:
    """Scale the sizes that a title's own text gives, such as that of its second line."""
    text = title.get("text") or ""
    title["text"] = re.sub(
        r"(?<=font-size:)[\d.]+(?=px)", lambda found: f"{FACTOR * float(found[0]):g}", text
    )


def _scale_font(
    part: dict[str, Any], usual: dict[str, Any], size: float = _USUAL_FONT, key: str = "font"
) -> None:
    """Scale a font where its size stands, else where the template has it, else the library's."""
    font = dict(part.get(key) or {})
    usual_size = usual.get(key, {}).get("size") or size
    font["size"] = max(LEAST_PIXELS, FACTOR * (font.get("size") or usual_size))
    part[key] = font
