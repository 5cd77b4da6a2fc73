"""What a way of rounding does to the weights of a layer, and to its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.figures.kit.axes import beside, rows_axis, two_lines
from dashboard.figures.kit.binning import bins_of
from dashboard.figures.kit.marks import bin_bars, row_bars
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import (
    ERROR,
    INT8,
    MARGIN,
    label,
    new_figure,
    vertical_line,
)
from dashboard.words.formatting import format_percent, percent

_REACH, _BINS = 2.0, 40
"""How far the histogram of moves goes, in steps, and its bins."""


@dataclass(frozen=True, slots=True)
class RoundingErrors:
    """Errors of one way to round; both are shares of the signal, Σ(ŷ-y)² / Σy²."""

    name: str
    weights: float
    output: float


def rounding_errors_picture(
    ways: Sequence[RoundingErrors], chosen: str, images: int, detail: str
) -> Picture:
    """Return the error of the weights and of the output under every way, the chosen one framed."""
    kinds = ("weights", "output")
    rows = [(kind, way) for kind in kinds for way in ways]
    values = [percent(way.weights if kind == "weights" else way.output) or 0 for kind, way in rows]
    trace = row_bars(
        values,
        [INT8 if kind == "weights" else ERROR for kind, _ in rows],
        hover=[f"{way.name}: error of the {kind}" for kind, way in rows],
        is_framed=[way.name == chosen for _, way in rows],
        width=0.66,
    )
    figure = new_figure(
        two_lines("Error of the weights, and of the output", detail),
        "Error (% of the signal)",
        traces=[trace],
        height=280,
        x_axis={"rangemode": "tozero"},
        y_axis=rows_axis([f"{kind}, {way.name.split(' (')[0]}" for kind, way in rows]),
        annotations=[beside(i, format_percent(value / 100)) for i, value in enumerate(values)],
        layout={"margin": {**MARGIN, "r": 76, "t": 60}},
    )
    seen = next(way for way in ways if way.name == chosen)
    return Picture(
        figure,
        f"With “{chosen}” the error of the weights is {format_percent(seen.weights)}, that of the "
        f"layer's output {format_percent(seen.output)}.",
        (
            "Error: the sum of the squared differences over that of the float values.",
            f"The output is that of {images:,} test digits, which neither way has seen before.",
        ),
        lambda: [
            {
                "rounding": way.name,
                "weight_error_percent": percent(way.weights),
                "output_error_percent": percent(way.output),
            }
            for way in ways
        ],
        "rounding-errors",
    )


def moves_picture(moves: Sequence[float], beyond: float, name: str) -> Picture:
    """Return how far the weights moved, in steps, as a histogram.

    Args:
        moves: By how much each weight moved, in steps of its grid.
        beyond: Share that did not go to the nearest mark.
        name: How they were rounded.
    """
    width = 2 * _REACH / _BINS
    places = [min(max(int((move + _REACH) / width), 0), _BINS - 1) for move in moves]
    counts = [places.count(index) for index in range(_BINS)]
    bins = bins_of(-_REACH, _REACH, counts)
    figure = new_figure(
        two_lines("How far each weight moved", name),
        "Moved by (steps between two marks)",
        "Weights",
        traces=[bin_bars("weights", bins, width, INT8, unit=" steps", showlegend=False)],
        height=300,
        shapes=[vertical_line(-0.5), vertical_line(0.5)],
        annotations=[label(0.5, " half a step")],
    )
    return Picture(
        figure,
        f"{format_percent(beyond)} of {len(moves):,} weights did not go to their nearest mark.",
        (
            "Between the dotted lines a weight went to the nearest mark; outside it went to one "
            "farther away, although a nearer one was free.",
        ),
        lambda: [{"from": one.lo, "to": one.hi, "weights": one.count} for one in bins],
        "moves",
    )
