"""Rounding and clipping error against the end of the range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.facts.tensors import observer_name
from dashboard.figures.kit.axes import log_axis, two_lines
from dashboard.figures.kit.marks import dots, line, ring
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    CLIPPED,
    ERROR,
    INT8,
    NEUTRAL,
    label,
    new_figure,
    vertical_line,
)
from dashboard.words.formatting import format_number, format_percent, percent
from quant_engine.report import RangeChoice

_ABOVE, _BELOW = 40.0, 8.0
"""What is in sight: errors up to so many times the smallest, and down to such a part of it."""
_SYMBOLS = {"minmax": "square", "percentile": "diamond", "mse": "star", "entropy": "triangle-up"}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The error of one range; all are shares of the signal but `share`, of the largest value."""

    share: float
    rounding: float
    clipping: float

    @property
    def total(self) -> float:
        """Both errors together."""
        return self.rounding + self.clipping


def range_curve_picture(
    points: Sequence[CurvePoint],
    chosen: float,
    choices: Sequence[RangeChoice],
    largest: float,
    detail: str,
) -> Picture:
    """Return both errors and their sum as curves, with the chosen range and what rules choose.

    Args:
        points: The errors, by growing range.
        chosen: Range that is looked at, as a share of the largest value.
        choices: What the engine's range rules choose.
        largest: The largest value.
        detail: What is quantized; second line of the title.
    """
    seen = min(points, key=lambda point: abs(point.share - chosen))
    best = min(points, key=lambda point: point.total)
    totals = [100 * point.total for point in points]
    traces = [*_curves(points), *(_rule_mark(choice, largest) for choice in choices)]
    traces.append(ring(100 * seen.share, 100 * seen.total, "chosen"))
    lowest, highest = 100 * best.total / _BELOW, 100 * max(_ABOVE * best.total, 2 * seen.total)
    side = "right" if best.share > 0.7 else "left"
    figure = new_figure(
        two_lines("Error for every end of the range", detail),
        "The ruler ends at (% of the largest value)",
        "Error (% of the signal)",
        traces=traces,
        height=380,
        x_axis={"range": [8, 104]},
        y_axis={**log_axis(totals), "range": [math.log10(lowest), math.log10(highest)]},
        shapes=[vertical_line(100 * best.share)],
        annotations=[label(100 * best.share, f" best: {percent(best.share):.0f} % ", anchor=side)],
    )
    return Picture(
        figure,
        f"A ruler that ends at {percent(seen.share):.0f} % has an error of "
        f"{format_number(percent(seen.total), 2)} % of the signal; the best ends at "
        f"{percent(best.share):.0f} % and has {format_number(percent(best.total), 2)} %.",
        (
            "From right to left the ruler becomes shorter: rounding errors shrink, clipping errors "
            "grow. The error is the sum of the squared differences over that of the values.",
            "The orange marks are what the engine's own rules choose. They look at a histogram of "
            "the numbers, so they may lie a little beside the curve.",
        ),
        lambda: [
            {
                "end_percent": 100 * point.share,
                "rounding_percent": 100 * point.rounding,
                "clipping_percent": 100 * point.clipping,
            }
            for point in points
        ],
        "range-curve",
    )


def _curves(points: Sequence[CurvePoint]) -> list[dict[str, Any]]:
    x = [100 * point.share for point in points]
    curves = (
        ("rounding", [point.rounding for point in points], ERROR, "dash"),
        ("clipping", [point.clipping for point in points], CLIPPED, "dot"),
        ("both together", [point.total for point in points], NEUTRAL, "solid"),
    )
    hover = " at %{x:.0f} %: %{y:.3g} % of the signal"
    return [
        line(
            x, [100 * y or None for y in shares], color, name=n, hover=n + hover, width=3, dash=dash
        )
        for n, shares, color, dash in curves
    ]


def _rule_mark(choice: RangeChoice, largest: float) -> dict[str, Any]:
    error = 10 ** (-choice.sqnr_db / 10)
    return dots(
        [100 * choice.hi / largest],
        [100 * error],
        INT8,
        name=f"rule “{observer_name(choice.observer)}”",
        hover=f"ends at %{{x:.0f}} %: {format_percent(error)} of the signal",
        size=12,
        symbol=_SYMBOLS.get(choice.observer, "circle"),
    )
