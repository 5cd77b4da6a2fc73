"""Figures for a projector: everything in them a quarter larger."""

from __future__ import annotations

import re
from typing import Any

import plotly.graph_objects as go

FACTOR = 1.25
_USUAL_FONT = 12


def enlarge(figure: go.Figure, factor: float = FACTOR) -> go.Figure:
    """Return a copy with larger text and, so that it still fits, a taller frame and wider margins.

    Example:
        >>> enlarge(go.Figure(layout={"font": {"size": 12}, "height": 400})).layout.font.size
        15.0
    """
    spec: dict[str, Any] = figure.to_dict()
    layout: dict[str, Any] = spec["layout"]
    template: dict[str, Any] = layout.get("template", {}).get("layout", {})
    if layout.get("height"):
        layout["height"] *= factor
    layout["margin"] = {
        side: value * factor if isinstance(value, int | float) else value
        for side, value in layout.get("margin", {}).items()
    }
    _scale_font(layout, template, factor)
    _scale_pixels(layout.setdefault("title", {}), factor)
    _scale_font(layout.setdefault("title", {}), template.get("title", {}), factor, 17)
    _scale_font(layout.setdefault("legend", {}), template.get("legend", {}), factor)
    axes = [name for name in layout if name.startswith(("xaxis", "yaxis"))]
    for name in axes:
        usual = template.get(name[:5], {})
        _scale_font(layout[name], usual, factor, key="tickfont")
        _scale_font(layout[name].setdefault("title", {}), usual.get("title", {}), factor)
    for note in layout.get("annotations", ()):
        _scale_font(note, {}, factor)
    return go.Figure(spec)


def _scale_pixels(title: dict[str, Any], factor: float) -> None:
    """Scale the sizes that a title's own text gives, such as that of its second line."""
    text = title.get("text") or ""
    title["text"] = re.sub(
        r"(?<=font-size:)[\d.]+(?=px)", lambda found: f"{factor * float(found[0]):g}", text
    )


def _scale_font(
    part: dict[str, Any],
    usual: dict[str, Any],
    factor: float,
    size: float = _USUAL_FONT,
    key: str = "font",
) -> None:
    """Scale a font where its size stands, else where the template has it, else the library's."""
    font = dict(part.get(key) or {})
    font["size"] = factor * (font.get("size") or usual.get(key, {}).get("size") or size)
    part[key] = font
