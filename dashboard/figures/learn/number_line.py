"""Numbers before and after rounding, on one line with all marks of the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.figures.kit.axes import two_lines
from dashboard.figures.kit.marks import dots, line
from dashboard.figures.kit.picture import Picture
from dashboard.figures.kit.theme import FLOAT, INT8, NEUTRAL, new_figure
from dashboard.words.formatting import format_number

_BEFORE, _AFTER = 1.0, 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """A number and where it went.

    Attributes:
        value: Before.
        code: Number of the mark it moved to.
        rounded: What that mark stands for.
    """

    value: float
    code: int
    rounded: float


def number_line_picture(moves: Sequence[Move], marks: Sequence[float], what: str) -> Picture:
    """Return numbers above, the marks they move to below, and a line for each move.

    Args:
        moves: The numbers.
        marks: Every value that the grid has, in order.
        what: Whose numbers they are.
    """
    places = len({move.code for move in moves})
    step = marks[1] - marks[0]
    path_x = [x for move in moves for x in (move.value, move.rounded, None)]
    path_y = [y for _ in moves for y in (_BEFORE, _AFTER, None)]
    grid = dots(
        marks,
        [_AFTER] * len(marks),
        NEUTRAL,
        name="marks of the ruler",
        hover="a mark: %{x:.4g}",
        size=18,
        symbol="line-ns-open",
    )
    before = dots(
        [move.value for move in moves],
        [_BEFORE] * len(moves),
        FLOAT,
        name="before (float)",
        hover="before: %{x:.4g}",
        size=8,
        symbol="diamond",
    )
    after = dots(
        [move.rounded for move in moves],
        [_AFTER] * len(moves),
        INT8,
        name="rounded (dequantized)",
        layers=[[move.code] for move in moves],
        hover="code %{customdata[0]} stands for %{x:.4g}",
        size=9,
    )
    paths = line(path_x, path_y, NEUTRAL, width=1)
    detail = f"{what}; {len(marks)} marks, {format_number(step)} apart"
    heights = {"tickvals": [_AFTER, _BEFORE], "ticktext": ["rounded", "before"]}
    figure = new_figure(
        two_lines(f"Where {len(moves)} numbers go", detail),
        "Value",
        traces=[paths, grid, before, after],
        height=270,
        y_axis={**heights, "range": [-0.25, 1.2], "showgrid": False, "fixedrange": True},
        layout={"margin": {"l": 64, "r": 16, "t": 92, "b": 48}},
    )
    return Picture(
        figure,
        f"{len(moves)} numbers move to {places} of {len(marks)} marks, which are "
        f"{format_number(step)} apart.",
        (
            "Above: the numbers before. Below: the marks, and what each number became.",
            "A slanted line is a rounding error. It never spans more than half a step.",
            "A ruler may begin and end up to half a step beside the outermost numbers: it is "
            "shifted until one of its marks lies where it should, usually at 0.",
        ),
        lambda: [
            {"value": move.value, "code": move.code, "rounded": move.rounded} for move in moves
        ],
        "number-line",
    )
