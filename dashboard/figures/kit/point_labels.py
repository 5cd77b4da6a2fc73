"""Names beside points, only where they cover neither a point nor another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.figures.kit.theme import note

_GAP_PIXELS = 10
# Rough sizes as shares of the plot, for a narrow page: a name that fits there fits everywhere.
_CHARACTER_WIDTH = 0.016
_LINE_HEIGHT = 0.1  # whiskers make an axis longer than its points do
_GAP_WIDTH = 0.015
_MARKER = 0.025

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    right: float
    bottom: float
    top: float

    def holds(self, point: Point) -> bool:
        x, y = point
        return (
            self.left - _MARKER < x < self.right + _MARKER
            and self.bottom - _MARKER < y < self.top + _MARKER
        )

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def point_labels(
    points: Sequence[Point], names: Sequence[str], wanted: Sequence[int], most: int = 4
) -> list[dict[str, Any]]:
    """Return annotations for some of the points, each on a side where there is room.

    Points on each other share one name. A point without room around it gets none.

    Args:
        points: Positions of all points, in the axes' own coordinates (for a logarithmic axis the
            logarithm).
        names: Name of each point.
        wanted: Points that should be named, the most important first.
        most: Names at most.
    """
    if not points:
        return []
    spread = [_scaled([point[axis] for point in points]) for axis in (0, 1)]
    places = list(zip(*spread, strict=True))
    notes: list[dict[str, Any]] = []
    boxes: list[_Box] = []
    named: set[Point] = set()
    for index in wanted:
        if len(notes) >= most:
            break
        if points[index] in named:
            continue
        same = [other for other in wanted if points[other] == points[index]]
        first = names[min(same)]
        text = first if len(same) == 1 else f"{first} and {len(same) - 1} more"
        others = [place for place in places if place != places[index]]
        for is_left, is_below in ((False, True), (False, False), (True, False), (True, True)):
            box = _label_box(places[index], len(text), is_left=is_left, is_below=is_below)
            is_inside = box.left > -0.03 and box.right < 1.03
            if not is_inside or any(map(box.holds, others)) or any(map(box.meets, boxes)):
                continue
            named.add(points[index])
            boxes.append(box)
            x, y = points[index]
            settings: dict[str, Any] = {
                "xshift": -_GAP_PIXELS if is_left else _GAP_PIXELS,
                "xanchor": "right" if is_left else "left",
                "yanchor": "top" if is_below else "bottom",
            }
            notes.append(note(text, x, y, **settings))
            break
    return notes


def _scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / ((high - low) or 1.0) for value in values]


def _label_box(place: Point, length: int, *, is_left: bool, is_below: bool) -> _Box:
    x, y = place
    width = length * _CHARACTER_WIDTH
    left = x - _GAP_WIDTH - width if is_left else x + _GAP_WIDTH
    bottom = y - _LINE_HEIGHT if is_below else y
    return _Box(left, left + width, bottom, bottom + _LINE_HEIGHT)
