"""One ruler for all channels? Only making the channels equal helps, and it costs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dashboard.data.settings import settings_to_text
from dashboard.figures.kit.picture import Picture
from dashboard.figures.learn.treatments import treatments_picture
from dashboard.figures.tensor.cause import ChannelSide, channel_panels, channel_rows
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_accuracy, format_number
from dashboard.work.lessons import ruler
from dashboard.work.lessons.numbers import read_numbers

NOTHING, EQUAL = "do nothing", "make the channels equal (equalization)"
_TREATMENTS = {
    NOTHING: ruler.NOTHING,
    "look at more images (calibration)": ruler.MORE_IMAGES,
    "end the ruler earlier (MSE)": ruler.SMARTER_RANGE,
    "correct the average (bias correction)": ruler.BIAS_CORRECTION,
    "round more cleverly (GPTQ)": ruler.GPTQ,
    EQUAL: ruler.EQUALIZE,
    "a ruler for each channel": ruler.OWN_SCALES,
}
"""What a learner may do, and what was measured for it."""

_ASKED = (ruler.SMARTER_RANGE, ruler.BIAS_CORRECTION, ruler.GPTQ, ruler.EQUALIZE)
"""The treatments that the answers stand for, in their order."""


def show(values: Values) -> Outcome:
    """Return what each treatment does to the model, and what the channels look like under it."""
    stored = read_numbers("ruler")
    measured: Mapping[str, Any] = stored.values["treatments"]
    accuracy = {name: float(one["accuracy"]) for name, one in measured.items()}
    label = values["repair"]
    shares = {text: accuracy[name] for text, name in _TREATMENTS.items()}
    images, float_accuracy = stored.values["test_images"], stored.values["float_accuracy"]
    best = max(range(len(_ASKED)), key=lambda index: accuracy[_ASKED[index]])
    others = [accuracy[name] for name in _ASKED if name != _ASKED[best]]
    before, after = measured[ruler.NOTHING], measured[ruler.EQUALIZE]
    calibration = measured[ruler.MORE_IMAGES]["calibration_images"]
    return Outcome(
        right=best,
        truth=(
            f"With one ruler per layer, {format_accuracy(accuracy[ruler.NOTHING])} of the answers "
            f"are right. With “{_answer(best)}” it is {format_accuracy(accuracy[_ASKED[best]])}, "
            f"with the other answers {format_accuracy(min(others))} to "
            f"{format_accuracy(max(others))}. Looking at {calibration:,} images instead of "
            f"{before['calibration_images']:,} to choose the rulers gives "
            f"{format_accuracy(accuracy[ruler.MORE_IMAGES])}; a ruler for each channel, where that "
            f"is allowed, {format_accuracy(accuracy[ruler.OWN_SCALES])}."
        ),
        pictures=(
            treatments_picture(shares, label, float_accuracy, images),
            _channels_picture(measured, label),
        ),
        insight=(
            "The largest channel sets the step of a shared ruler, so make the channels alike "
            f"first: the largest was {_ratio(before)} times the smallest and is {_ratio(after)} "
            "times afterwards, while the float network's answers changed by less than "
            f"{_share_below(stored.values['float_change'])}."
        ),
        computed=(
            f"The trained MobileNet with unequal channels, 8 bits, on {images:,} test digits; "
            f"{stored.origin}. The second figure shows the layer {ruler.LAYER}."
        ),
    )


def _answer(index: int) -> str:
    return next(text for text, name in _TREATMENTS.items() if name == _ASKED[index])


def _ratio(treatment: Mapping[str, Any]) -> str:
    return format_number(max(treatment["largest"]) / min(treatment["largest"]), 2)


def _share_below(share: float) -> str:
    """A bound in round numbers: the next power of ten as "a millionth"."""
    bounds = ((1e-6, "a millionth"), (1e-3, "a thousandth"), (math.inf, "their own size"))
    return next(text for bound, text in bounds if share < bound)


def _side(treatment: Mapping[str, Any]) -> ChannelSide:
    zeros, weights = treatment["became_zero"], treatment["weights"]
    return ChannelSide(
        tuple(treatment["largest"]),
        tuple(treatment["half_step"]),
        f"{zeros} of {weights} weights became 0",
    )


def _channels_picture(measured: Mapping[str, Any], label: str) -> Picture:
    chosen = [NOTHING] if label == NOTHING else [NOTHING, label]
    sides = [_side(measured[_TREATMENTS[text]]) for text in chosen]
    labels = [text.partition(" (")[0] for text in chosen]
    title = "Largest weight of each channel, and half a step of the ruler"
    told = ". ".join(
        f"{text.capitalize()}: {side.words}" for text, side in zip(labels, sides, strict=True)
    )
    return Picture(
        channel_panels(title, sides, labels, "channel", "Largest |weight|"),
        f"{told}.",
        (
            "Each mark is a channel: one small filter with its own nine weights. Orange is half a "
            "step of the ruler.",
            "A weight below half a step is rounded to 0. A cross is a channel of which nothing is "
            "left.",
        ),
        lambda: channel_rows(sides, labels),
        "channels",
    )


LESSON = Lesson(
    name="ruler",
    title="One ruler for all channels?",
    text=(
        "A layer has many *channels*: small filters side by side, each with its own weights. To "
        "store weights as 8-bit numbers we lay a ruler with 255 marks over them and round each "
        "weight to the nearest mark. The cheapest way is **one ruler for the whole layer**, long "
        "enough for the largest weight.\n\n"
        "This network reads handwritten digits, and some of its channels are hundreds of times "
        "larger than their neighbours. That happens in trained networks too. Before rounding that "
        "costs nothing. With one ruler the small channels lie between 0 and the first mark: they "
        "are rounded to nothing, and the network guesses."
    ),
    question="We must keep one ruler per layer. Which repair brings the right answers back?",
    answers=(
        "End the ruler earlier and cut off the largest weights, so that the steps become small",
        "Measure how far the average output moved, and correct it",
        "Round each weight up or down so that the layer's output stays closest",
        "Before rounding, shrink the large channels, and let the next layer undo it",
    ),
    controls=(
        Control(
            "repair",
            "What we do about it",
            tuple(_TREATMENTS),
            EQUAL,
            "Each choice is the same trained network, quantized to 8 bits after this repair.",
        ),
    ),
    show=show,
    page="views/compare/compare.py",
    link={
        "a": settings_to_text(ruler.SETTINGS[ruler.NOTHING]),
        "b": settings_to_text(ruler.SETTINGS[ruler.EQUALIZE]),
    },
    terms=("per channel", "per tensor", "each output channel", "scale", "cross-layer equalization"),
)
