"""Rounding up can be right: what must stay is the output of a layer, not its weights."""

from __future__ import annotations

from dashboard.figures.learn.rounding import RoundingErrors, moves_picture, rounding_errors_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_number, format_percent
from dashboard.work.lessons import rounding
from dashboard.work.lessons.rounding import RoundedLayer

NEAREST, GPTQ = "to the nearest mark", "so that the output stays (GPTQ)"
_ASKED_BITS = 4
_ALIKE = 1.05
"""Errors whose ratio is below this count as the same."""
_ALWAYS_NEAREST, _FARTHER_IS_BETTER, _NO_MATTER = 0, 1, 2


def show(values: Values) -> Outcome:
    """Return the errors of both ways to round, and how far the chosen one moved the weights."""
    bits, chosen = int(values["bits"]), values["rounding"]
    nearest, gptq = _both(_ASKED_BITS)
    ways = dict(zip((NEAREST, GPTQ), _both(bits), strict=True))
    seen = ways[chosen]
    return Outcome(
        right=_right(nearest.output_error, gptq.output_error),
        truth=(
            f"With {_ASKED_BITS} bits, GPTQ sends {format_percent(gptq.beyond_nearest)} of the "
            "weights to a mark that is not the nearest. The error of the weights becomes "
            f"{_times(gptq.weight_error, nearest.weight_error)}, that of the layer's output "
            f"{_times(gptq.output_error, nearest.output_error)}."
        ),
        pictures=(
            rounding_errors_picture(
                [RoundingErrors(n, w.weight_error, w.output_error) for n, w in ways.items()],
                chosen,
                seen.images,
                f"{rounding.LAYER} of {rounding.MODEL}, {bits} bits",
            ),
            moves_picture(seen.moves, seen.beyond_nearest, f"rounded {chosen}, {bits} bits"),
        ),
        insight=(
            "What counts is what a layer passes on, not how its weights look: neighbouring pixels "
            "go up and down together, so one weight rounded up can make up for its neighbour "
            f"rounded down, and with {_ASKED_BITS} bits the output's error falls from "
            f"{format_percent(nearest.output_error)} to {format_percent(gptq.output_error)}."
        ),
        computed=(
            f"Computed now: the first layer of the trained MLP, {len(seen.moves):,} weights, one "
            f"scale per output channel, inputs in float. GPTQ saw {seen.calibration_images:,} "
            f"calibration digits; errors are those on {seen.images:,} test digits."
        ),
    )


def _both(bits: int) -> tuple[RoundedLayer, RoundedLayer]:
    return rounding.round_layer(bits, False), rounding.round_layer(bits, True)


def _right(nearest: float, farther: float) -> int:
    """Which answer two errors of the output fit."""
    if farther * _ALIKE < nearest:
        return _FARTHER_IS_BETTER
    return _ALWAYS_NEAREST if nearest * _ALIKE < farther else _NO_MATTER


def _times(after: float, before: float) -> str:
    """A change as a factor, in words."""
    if after >= before:
        return f"{format_number(after / before, 2)} times as large"
    return f"{format_number(before / after, 2)} times smaller"


LESSON = Lesson(
    name="rounding",
    title="Rounding up can be right",
    text=(
        "A layer multiplies each input by a weight and adds the products up. To store its weights "
        "in 4 bits we have marks on a ruler, and each weight must go to one of them. The obvious "
        "rule: **go to the nearest mark**. No other rule changes the weights less.\n\n"
        "But nobody looks at weights. The next layer only sees the **sum**. If one weight was "
        "rounded down, the sum is a little short. A neighbour that is rounded *up*, although the "
        "mark below is nearer, may put that right. A method called *GPTQ* goes through the weights "
        "one by one and does just this, with example inputs to see which weights work together."
    ),
    question="Can it be better for the layer's output to send a weight to a mark farther away?",
    answers=(
        "No: the nearest mark has the smallest error, and small errors add up to small errors",
        "Yes: the weights' error grows, but the output's error shrinks",
        "It makes no difference: ups and downs even out by themselves",
    ),
    controls=(
        Control(
            "rounding",
            "Weights are rounded",
            (NEAREST, GPTQ),
            GPTQ,
            "Both ways have the same marks; they differ in which mark a weight goes to.",
        ),
        Control("bits", "Bits", ("2", "3", "4", "6"), "4", "How many bits a weight has."),
    ),
    show=show,
    page="views/layer/layer.py",
    link={"run": "mlp int8_per_channel", "layer": rounding.LAYER, "part": "Weights"},
    terms=("GPTQ", "weight error", "output error"),
)
