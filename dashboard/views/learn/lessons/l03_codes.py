"""Half your codes are asleep: a symmetric grid spends a bit on numbers that never come."""

from __future__ import annotations

import math
from dataclasses import replace

from dashboard.figures.tensor.codes import codes_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_count, format_db, format_number, plural
from dashboard.work.lessons import sample_layers
from quant_engine.report import TensorReport
from quant_engine.scheme import TensorScheme

MODEL, LAYER = "resnet", "layer1.0.conv2"
SYMMETRIC, ASYMMETRIC = "symmetric", "asymmetric"
_ASKED_BITS = 8
_LOST_BITS = (0.0, 1.0, 4.0)
"""How many bits are lost, as the answers have it."""


def show(values: Values) -> Outcome:
    """Return which codes occur on the chosen grid, and what the other one costs."""
    bits, label = int(values["bits"]), values["ruler"]
    report = _report(bits, is_symmetric=label == SYMMETRIC)
    both, one = _report(_ASKED_BITS, is_symmetric=True), _report(_ASKED_BITS, is_symmetric=False)
    # How many bits the longer steps of the symmetric grid stand for.
    lost = math.log2(both.scale[0] / one.scale[0])
    return Outcome(
        right=min(range(len(_LOST_BITS)), key=lambda i: abs(lost - _LOST_BITS[i])),
        truth=(
            f"The symmetric ruler has {len(both.codes.counts)} marks; {both.codes.codes_used} are "
            f"used, {_used_below_zero(both)} of them below 0. Of the asymmetric ruler's "
            f"{len(one.codes.counts)} marks, {one.codes.codes_used} are used. The symmetric steps "
            f"are {format_number(both.scale[0] / one.scale[0])} times as long, as if the other "
            f"ruler had {plural(_ASKED_BITS - round(lost), 'bit')}."
        ),
        pictures=(replace(codes_picture(report, f"Inputs, {bits} bits"), alt=_used(report)),),
        insight=(
            "Where no number is negative, a ruler that is symmetric about 0 wastes "
            f"{plural(round(lost), 'bit')} ({format_db(one.error.sqnr_db - both.error.sqnr_db)} of "
            "SQNR) for nothing; an asymmetric one puts its zero point, the code of 0, at the end: "
            f"here {format_number(one.zero_point[0])}."
        ),
        computed=(
            f"Computed now: {format_count(one.error.count)} numbers that flow into {LAYER} of "
            f"{MODEL} for {sample_layers.IMAGES} test digits, after a ReLU, the range from the "
            "smallest to the largest."
        ),
    )


def _report(bits: int, *, is_symmetric: bool) -> TensorReport:
    scheme = TensorScheme(bits=bits, symmetric=is_symmetric)
    return sample_layers.input_report(MODEL, LAYER, scheme)


def _used(report: TensorReport) -> str:
    codes = report.codes
    return f"{codes.codes_used} of {len(codes.counts)} codes are used."


def _used_below_zero(report: TensorReport) -> str:
    below = sum(map(bool, report.codes.counts[: report.zero_point[0] - report.codes.qmin]))
    return format_count(below) if below else "none"


LESSON = Lesson(
    name="codes",
    title="Half your codes are asleep",
    text=(
        "What flows from layer to layer is quantized too: every number moves to the nearest mark "
        "of a ruler, and the number of that mark, its *code*, is what is stored. 8 bits give 256 "
        "codes.\n\n"
        "Many networks send each number through a *ReLU* first, which turns everything negative "
        "into 0. So what the next layer gets is never below 0.\n\n"
        "Two rulers are in use. The **symmetric** one reaches as far below 0 as above, with 0 in "
        "the middle. The **asymmetric** one reaches from the smallest number to the largest."
    ),
    question="What does the symmetric ruler cost for such numbers, at 8 bits?",
    answers=(
        "Nothing: marks that no number needs cost nothing",
        "About one bit: it is as exact as the other ruler with 7 bits",
        "About four bits: half of the codes is half of the bits",
    ),
    controls=(
        Control(
            "ruler",
            "Ruler",
            (SYMMETRIC, ASYMMETRIC),
            SYMMETRIC,
            "Symmetric: as far below 0 as above. Asymmetric: from the smallest to the largest.",
        ),
        Control("bits", "Bits", ("4", "6", "8"), "8", "How many bits a code has."),
    ),
    show=show,
    page="views/layer/layer.py",
    link={"run": "resnet int8_per_channel", "layer": LAYER, "part": "Inputs", "tab": "Codes"},
    terms=("symmetric", "asymmetric", "zero point", "code"),
)
