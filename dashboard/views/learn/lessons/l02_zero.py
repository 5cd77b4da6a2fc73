"""Why must zero be exact? Equal numbers have equal errors, and padding is all zeros."""

from __future__ import annotations

from dataclasses import replace

from dashboard.figures.kit.picture import Picture
from dashboard.figures.learn.feature_map import feature_map_picture
from dashboard.figures.learn.number_line import Move, number_line_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_number
from dashboard.work.lessons import zero_off_grid
from dashboard.work.lessons.zero_off_grid import OffGrid, run_convolution

_SHIFTS = {"exactly on a mark": 0.0, "a quarter step beside": 0.25, "half a step beside": 0.5}
_ALIKE = 1.5
"""Up to this ratio, errors of two places count as alike."""
_LARGEST = 0.3
"""Error with the darkest shade, in steps."""
_EVERYWHERE, _BORDER, _BRIGHTEST = 0, 1, 2


def show(values: Values) -> Outcome:
    """Return where the layer errs with 0 on a mark, or beside one."""
    label = values["zero"]
    chosen = run_convolution(_SHIFTS[label])
    exact, off = run_convolution(0.0), run_convolution(0.5)
    return Outcome(
        right=_right(off),
        truth=(
            f"With 0 half a step beside a mark, outputs at the border are off by "
            f"{_steps(off.border)}, {format_number(off.border / off.inside, 2)} times as much as "
            f"those inside ({_steps(off.inside)}). With 0 on a mark, it is {_steps(exact.border)} "
            f"at the border and {_steps(exact.inside)} inside (root mean square)."
        ),
        pictures=(
            feature_map_picture(
                chosen.errors,
                _LARGEST,
                f"0 is {label}",
                f"The border is off by {_steps(chosen.border)}, the inside by "
                f"{_steps(chosen.inside)}.",
            ),
            _number_line(chosen),
        ),
        insight=(
            "Errors of different numbers nearly cancel in a sum, but those of all zeros are the "
            "same and add up, so every ruler has a mark exactly at 0: its code is the zero point, "
            "which is there for 0 and not to shift numbers."
        ),
        computed=(
            f"Computed now on a made-up layer: {zero_off_grid.CHANNELS} channels of "
            f"{zero_off_grid.SIDE} × {zero_off_grid.SIDE} random numbers from "
            f"{zero_off_grid.LEAST} to 1, a filter that takes the mean of "
            f"{zero_off_grid.KERNEL} × {zero_off_grid.KERNEL} of all channels, "
            f"{zero_off_grid.BITS} bits."
        ),
    )


def _number_line(chosen: OffGrid) -> Picture:
    moves = tuple(map(Move, chosen.values, chosen.codes, chosen.stand_ins))
    what = f"the 0 of the padding and {len(moves) - 1} numbers of the image"
    became = format_number(chosen.stand_ins[0])
    return replace(
        number_line_picture(moves, chosen.marks, what),
        alt=f"The 0 of the padding becomes {became}.",
    )


def _right(off: OffGrid) -> int:
    if max(off.border, off.brightest) < _ALIKE * off.inside:
        return _EVERYWHERE
    return _BORDER if off.border > off.brightest else _BRIGHTEST


def _steps(error: float) -> str:
    return f"{format_number(error, 2)} steps"


LESSON = Lesson(
    name="zero",
    title="Why must zero be exact?",
    text=(
        "To store a number in few bits, we move it to the nearest mark of a ruler. Some numbers "
        "move up, some down.\n\n"
        "A network for images sums up small neighbourhoods: a *filter* slides over the image and "
        "takes a weighted sum of what it covers. At the border it reaches over the edge. There the "
        "network fills in zeros, the *padding*.\n\n"
        "Where the marks lie is up to us. If the first one is the smallest number, 0 may fall "
        "between two marks. Suppose it falls in the middle: it moves by half a *step*, half the "
        "distance of two marks, as other numbers may too."
    ),
    question="0 lies half a step beside a mark. Where does the layer's output suffer most?",
    answers=(
        "Everywhere alike: every number is moved a little, 0 is no different",
        "At the border, where the filter covers padding",
        "Where the numbers are largest",
    ),
    controls=(
        Control(
            "zero",
            "Where 0 lies",
            tuple(_SHIFTS),
            "half a step beside",
            "The same marks, all of them shifted by a part of the distance between two.",
        ),
    ),
    show=show,
    page="views/layer/layer.py",
    link={"run": "cnn int8_per_channel", "layer": "features.2", "part": "Inputs", "tab": "Codes"},
    terms=("zero point", "padding"),
)
