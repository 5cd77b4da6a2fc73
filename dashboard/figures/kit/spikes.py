"""Count axes on which one huge bar, such as all zeros after a ReLU, does not flatten the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboard.figures.kit.theme import note
from dashboard.words.formatting import format_count

Axis = tuple[dict[str, Any], list[dict[str, Any]]]

_SPIKE = 4.0
_HEADROOM = 1.25


def count_axis(
    is_log: bool, bars: Sequence[tuple[float, int]] = (), *, spikes: int = 1, least: float = 0.0
) -> Axis:
    """Return the settings of an axis of counts, and notes on the bars it cuts.

    A linear axis ends a little above the highest ordinary bar; up to `spikes` bars that are more
    than four times as high are cut, and each says its count.

    Args:
        is_log: Whether the axis is logarithmic; then nothing is cut.
        bars: Place and count of every bar.
        spikes: Most bars to cut.
        least: A height that stays in view.

    Example:
        >>> axis, notes = count_axis(False, [(0.0, 1000), (1.0, 8), (2.0, 6)])
        >>> axis["range"], notes[0]["text"]
        ([0, 10.0], '▲ 1,000 (cut)')
    """
    if is_log:
        return {"type": "log", "dtick": 1, "exponentformat": "e"}, []
    ordered = sorted(bars, key=lambda bar: bar[1], reverse=True)
    ordinary = ordered[spikes][1] if len(ordered) > spikes else 0
    if not ordinary or ordered[0][1] <= _SPIKE * ordinary:
        return {"rangemode": "tozero"}, []
    top = max(_HEADROOM * ordinary, 1.25 * least)
    if top >= ordered[0][1]:
        return {"rangemode": "tozero"}, []
    cut = {x: count for x, count in reversed(ordered) if count > top}
    beside: dict[str, Any] = {"yref": "paper", "yanchor": "top", "xanchor": "left", "xshift": 6}
    notes = [note(f"▲ {format_count(count)} (cut)", x, 1, **beside) for x, count in cut.items()]
    return {"range": [0, top]}, notes
