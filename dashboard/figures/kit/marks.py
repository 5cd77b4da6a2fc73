"""Marks as Plotly traces: bars, dots with whiskers, lines, bins and their open ends.

Every mark takes the same three: `name` stands in the legend, and without one the mark does not;
`layers` go into `customdata`, where a click finds them; `hover` is a text for each mark, or one
template for all, and without it the mark says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from dashboard.figures.kit.binning import Bin
from dashboard.figures.kit.theme import EDGES, HIGHLIGHT, NEUTRAL

Trace: TypeAlias = dict[str, Any]
Hover: TypeAlias = Sequence[str] | str | None


def _trace(name: str, layers: Sequence[Any] | None, hover: Hover) -> Trace:
    trace: Trace = {"name": name} if name else {"showlegend": False}
    if layers is not None:
        trace["customdata"] = list(layers)
    if hover is None:
        return trace | {"hoverinfo": "skip"}
    if isinstance(hover, str):
        return trace | {"hovertemplate": f"{hover}<extra></extra>"}
    return trace | {"hovertext": list(hover), "hovertemplate": "%{hovertext}<extra></extra>"}


def bars(
    x: Sequence[Any],
    y: Sequence[Any],
    color: Any,
    *,
    name: str = "",
    layers: Sequence[Any] | None = None,
    hover: Hover = None,
    edge: Any = None,
    edge_width: Any = 1,
    opacity: Any = None,
    is_level: bool = False,
    **more: Any,
) -> Trace:
    """Return bars.

    Args:
        x: Places; lengths where the bars are level.
        y: Heights; places where the bars are level.
        color: Colour of all, or of each.
        name: See the module.
        layers: See the module.
        hover: See the module.
        edge: Colour of their edge; none without one.
        edge_width: Width of the edge in pixels.
        opacity: Of all, or of each.
        is_level: Whether they lie, from left to right.
        more: Plotly's own settings, such as `width` and `base`.
    """
    line = {"width": 0} if edge is None else {"width": edge_width, "color": edge}
    marker = {"color": color, "line": line} | ({} if opacity is None else {"opacity": opacity})
    direction = {"orientation": "h"} if is_level else {}
    body = {"type": "bar", "x": list(x), "y": list(y), "marker": marker}
    return {**body, **direction, **_trace(name, layers, hover), **more}


def row_bars(
    values: Sequence[Any], color: Any, *, is_framed: Sequence[bool] = (), **more: Any
) -> Trace:
    """Return level bars, one per row from the top.

    Args:
        values: Their lengths.
        color: Colour of all, or of each.
        is_framed: Which of them are pointed out; none if empty.
        more: As for `bars`.
    """
    if is_framed:
        more["edge"] = [HIGHLIGHT if framed else "rgba(0,0,0,0)" for framed in is_framed]
        more["edge_width"] = [4 if framed else 0 for framed in is_framed]
    return bars(values, range(len(values)), color, is_level=True, **more)


def dots(
    x: Sequence[Any],
    y: Sequence[Any],
    color: Any,
    *,
    name: str = "",
    layers: Sequence[Any] | None = None,
    hover: Hover = None,
    edge: Any = None,
    edge_width: float = 1,
    size: float = 10,
    symbol: Any = "circle",
    is_selected: Sequence[bool] | None = None,
    **more: Any,
) -> Trace:
    """Return dots; selected ones are ringed.

    Args:
        x: Where they stand.
        y: The same.
        color: Colour of all, or of each.
        name: See the module.
        layers: See the module.
        hover: See the module.
        edge: Colour of their edge; what `EDGES` has for their colour, or the colour, if None.
        edge_width: Width of the edge in pixels.
        size: Pixels across.
        symbol: Plotly's symbol, of all or of each.
        is_selected: Which of them are pointed out; none if None.
        more: Plotly's own settings, such as `error_x`.
    """
    if edge is None:
        edge = EDGES.get(color, color) if isinstance(color, str) else color
    marker: dict[str, Any] = {"color": color, "size": size, "symbol": symbol}
    marker["line"] = {"color": edge, "width": edge_width}
    if is_selected is not None:
        marker |= {
            "opacity": 1.0,  # an array of sizes would make the points transparent
            "size": [size + 4 if chosen else size for chosen in is_selected],
            "line": {
                "color": [HIGHLIGHT if chosen else edge for chosen in is_selected],
                "width": [3 if chosen else edge_width for chosen in is_selected],
            },
        }
    body = {"type": "scatter", "mode": "markers", "x": list(x), "y": list(y), "marker": marker}
    return {**body, **_trace(name, layers, hover), **more}


def ring(x: float, y: float, name: str, symbol: str = "circle-open") -> Trace:
    """Return a ring around a point that is pointed out."""
    return dots([x], [y], HIGHLIGHT, name=name, size=21, symbol=symbol, edge_width=3)


def line(
    x: Sequence[Any],
    y: Sequence[Any],
    color: str = NEUTRAL,
    *,
    name: str = "",
    layers: Sequence[Any] | None = None,
    hover: Hover = None,
    width: float = 1.5,
    dash: str = "solid",
    shape: str = "linear",
    **more: Any,
) -> Trace:
    """Return a line; None in its points is a gap."""
    style = {"color": color, "width": width, "dash": dash, "shape": shape}
    body = {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "line": style}
    return {**body, **_trace(name, layers, hover), **more}


def key(name: str, dash: str = "solid") -> Trace:
    """Return a legend entry for something that is drawn as shapes."""
    return line([None], [None], name=name, width=2, dash=dash)


def whiskers(
    values: Sequence[float | None],
    ends: Sequence[tuple[float | None, float | None] | None],
    color: str = NEUTRAL,
    *,
    thickness: float = 1.5,
    width: float = 4,
) -> dict[str, Any]:
    """Return what Plotly calls error bars, from values to the ends of their intervals."""

    def length(value: float | None, end: float | None, sign: int) -> float:
        return 0.0 if value is None or end is None else max(0.0, sign * (end - value))

    pairs = [(value, end or (None, None)) for value, end in zip(values, ends, strict=True)]
    return {
        "type": "data",
        "symmetric": False,
        "array": [length(value, high, 1) for value, (_, high) in pairs],
        "arrayminus": [length(value, low, -1) for value, (low, _) in pairs],
        "color": color,
        "thickness": thickness,
        "width": width,
    }


def bin_bars(
    name: str,
    bins: Sequence[Bin],
    width: float,
    color: str,
    *,
    unit: str = "",
    digits: str = ".4g",
    **more: Any,
) -> Trace:
    """Return a histogram's bars; hovering one says its count and its ends."""
    ends = f"from %{{customdata[0]:{digits}}} to %{{customdata[1]:{digits}}}{unit}"
    return bars(
        [one.center for one in bins],
        [one.count for one in bins],
        color,
        name=name,
        layers=[[one.lo, one.hi] for one in bins],
        hover=f"{name}: %{{y:,}} values<br>{ends}",
        width=width,
        **more,
    )
