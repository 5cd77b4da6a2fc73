"""Cut off the giants? The best range clips, and the one that loses nothing loses most."""

from __future__ import annotations

import math
from dataclasses import replace

from dashboard.facts.tensors import observer_name
from dashboard.figures.learn.range_curve import CurvePoint, range_curve_picture
from dashboard.figures.tensor.distributions import values_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_count, format_number, format_percent
from dashboard.work.lessons import sample_layers
from dashboard.work.lessons.range_errors import RangeError, range_errors
from quant_engine.report import TensorReport
from quant_engine.scheme import TensorScheme

MODEL, LAYER = "resnet", "layer2.0.conv1"
_ASKED_BITS = 4
_AT_THE_TOP = 0.95
"""From this share of the largest value on, the best range would clip nothing worth a word."""
_LARGEST, _BELOW, _TYPICAL = 0, 1, 2


def show(values: Values) -> Outcome:
    """Return the errors of all ranges, and the numbers on the chosen one."""
    bits, share = int(values["bits"]), int(values["end"].split()[0]) / 100
    asked = range_errors(MODEL, LAYER, _scheme(_ASKED_BITS))
    best, whole = min(asked, key=lambda error: error.total), asked[-1]
    full = _report(_ASKED_BITS, 1.0)
    ordered = sorted(full.range_choices, key=lambda choice: -choice.sqnr_db)
    points = [CurvePoint(e.share, e.rounding, e.clipping) for e in _errors(bits)]
    choices = _report(bits, 1.0).range_choices
    chosen = _report(bits, share)
    return Outcome(
        right=_right(best, _typical() / full.hi),
        truth=(
            f"With {_ASKED_BITS} bits the error is smallest where the ruler ends at "
            f"{100 * best.share:.0f} % of the largest number: "
            f"{format_number(whole.total / best.total, 2)} times smaller than with nothing cut "
            f"off, though {format_percent(best.clipped)} of the numbers are clipped. Of "
            f"{len(ordered)} rules that choose the end by themselves, "
            f"“{observer_name(ordered[0].observer)}” is the best here and "
            f"“{observer_name(ordered[-1].observer)}”, which ends at "
            f"{100 * ordered[-1].hi / full.hi:.0f} %, the worst."
        ),
        pictures=(
            range_curve_picture(
                points, share, choices, full.hi, f"inputs of {LAYER} of {MODEL}, {bits} bits"
            ),
            replace(
                values_picture(chosen, f"Inputs, {bits} bits", is_log=True),
                alt=f"{format_percent(chosen.error.clipped_fraction)} of the numbers lie beyond "
                f"the end of the ruler, at {format_number(full.hi * share)}.",
            ),
        ),
        insight=(
            "A longer ruler makes every rounding error larger, a shorter one cuts off a few large "
            f"numbers, and the best one clips: with {_ASKED_BITS} bits it ends at "
            f"{100 * best.share:.0f} % of the largest number, with 8 bits, whose steps are short "
            f"anyway, at {100 * min(_errors(8), key=lambda error: error.total).share:.0f} %."
        ),
        computed=(
            f"Computed now: {format_count(full.error.count)} numbers that flow into {LAYER} of "
            f"{MODEL} for {sample_layers.IMAGES} test digits, one asymmetric range for all."
        ),
    )


def _scheme(bits: int) -> TensorScheme:
    return TensorScheme(bits=bits, symmetric=False)


def _errors(bits: int) -> tuple[RangeError, ...]:
    return range_errors(MODEL, LAYER, _scheme(bits))


def _report(bits: int, share: float) -> TensorReport:
    return sample_layers.input_report(MODEL, LAYER, _scheme(bits), share)


def _typical() -> float:
    """Root of the mean square of the numbers."""
    values = sample_layers.layer_input(MODEL, LAYER)
    return math.sqrt(float(values.double().square().mean()))


def _right(best: RangeError, typical: float) -> int:
    """Which answer the best range fits; `typical` is a share of the largest value as it is."""
    if best.share >= _AT_THE_TOP:
        return _LARGEST
    return _TYPICAL if best.share < 2 * typical else _BELOW


LESSON = Lesson(
    name="range",
    title="Cut off the giants?",
    text=(
        "Among the numbers that flow through a network most are small and a few are giants. Before "
        "we round them to the marks of a ruler, we choose where the ruler ends, its *range*.\n\n"
        "If it reaches the largest number, nothing is cut off. But the marks are then far apart, "
        "and every number moves further: **rounding error**. If it ends earlier, the marks are "
        "closer, but each number beyond the end becomes the last mark: **clipping error**.\n\n"
        "We take the inputs of one layer, with 4 bits, so 16 marks. The largest is eight to nine "
        "times as large as a typical one (root mean square)."
    ),
    question="Where should the ruler end, so that both errors together are smallest?",
    answers=(
        "At the largest number: what is cut off is lost for good",
        "Well below the largest number, but far above a typical one",
        "At about a typical number: nearly all numbers are small",
    ),
    controls=(
        Control(
            "end",
            "The ruler ends at this share of the largest number",
            tuple(f"{percent} %" for percent in range(10, 101, 10)),
            "100 %",
            "What lies beyond the end is clipped: it becomes the last mark.",
        ),
        Control("bits", "Bits", ("4", "6", "8"), "4", "How many bits a code has."),
    ),
    show=show,
    page="views/layer/layer.py",
    link={"run": "resnet int8_per_channel", "layer": LAYER, "part": "Inputs", "tab": "Ranges"},
    terms=("range", "clipping", "clipped", "range estimator", "min–max"),
)
