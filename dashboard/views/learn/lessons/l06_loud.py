"""Two loud channels: a factor moves the difficulty to weights that have room for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboard.data.settings import settings_to_text
from dashboard.figures.kit.picture import Picture
from dashboard.figures.learn.treatments import treatments_picture
from dashboard.figures.tensor.cause import ChannelSide, channel_panels, channel_rows
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_accuracy, format_number
from dashboard.work.lessons import loud
from dashboard.work.lessons.numbers import read_numbers

_MOVES = {"do nothing": loud.NOTHING, **{f"α = {alpha:g}": str(alpha) for alpha in loud.ALPHAS}}
"""What a learner may do, and what was measured for it."""
_CASES = {"loud channels, 8 bits": loud.LOUD, "no loud channels, 4-bit weights": loud.PLAIN}
_ASKED = "α = 0.5"
_TOLD_APART = 0.02
"""Shares of right answers that differ by less count as the same."""
_NOTHING, _RIGHT_AGAIN, _WORSE = 0, 1, 2


def show(values: Values) -> Outcome:
    """Return what moving the difficulty does to the answers, and to both sides of a layer."""
    stored = read_numbers("loud")
    images = int(stored.values["test_images"])
    cases: Mapping[str, Mapping[str, Any]] = stored.values["cases"]
    asked, plain = cases[loud.LOUD]["moves"], cases[loud.PLAIN]["moves"]
    case, move = cases[_CASES[values["case"]]], values["move"]
    before, after = asked[loud.NOTHING], asked[_MOVES[_ASKED]]
    shares = {text: case["moves"][name]["right"] / images for text, name in _MOVES.items()}
    worst = max(before["inputs"])
    loudest = before["inputs"].index(worst)
    return Outcome(
        right=_right(before["right"] / images, after["right"] / images),
        truth=(
            f"Untreated, {format_accuracy(before['right'] / images)} of the answers are right; "
            f"with {_ASKED} it is {format_accuracy(after['right'] / images)}, in float "
            f"{format_accuracy(cases[loud.LOUD]['float_right'] / images)}. The loudest channel's "
            f"inputs shrink from {format_number(worst)} to "
            f"{format_number(after['inputs'][loudest], 2)}, and the weights that read it grow from "
            f"{format_number(before['weights'][loudest], 2)} to "
            f"{format_number(after['weights'][loudest], 2)}. {_other_words(asked, images)}"
        ),
        pictures=(
            treatments_picture(shares, move, case["float_right"] / images, images),
            _channels_picture(case["moves"], move),
        ),
        insight=(
            "The factor moves the difficulty to the weights, and here those that read the loud "
            f"channels were small and had room; {_plain_words(plain)}"
        ),
        computed=(
            f"Two vision transformers on {images:,} test digits, inputs in 8 bits; in the first, "
            f"two loud channels were planted. {stored.origin[:1].upper()}{stored.origin[1:]}. The "
            f"second figure shows the layer {loud.LAYER} before it is rounded."
        ),
    )


def _right(before: float, after: float) -> int:
    """Which answer two shares of right answers fit."""
    if abs(after - before) < _TOLD_APART:
        return _NOTHING
    return _RIGHT_AGAIN if after > before else _WORSE


def _other_words(moves: Mapping[str, Mapping[str, Any]], images: int) -> str:
    """What the values of alpha that were not asked about give."""
    others = [moves[name]["right"] / images for text, name in _MOVES.items() if text != _ASKED]
    others = others[1:]  # the first does nothing
    low, high = format_accuracy(min(others)), format_accuracy(max(others))
    return f"The other α give {low}." if low == high else f"The other α give {low} to {high}."


def _plain_words(moves: Mapping[str, Mapping[str, Any]]) -> str:
    """What all values of alpha do to a network without loud channels, as far as it is known."""
    changes = [moves[str(alpha)]["kl_change"] for alpha in loud.ALPHAS]
    start = (
        "in a network without loud channels, with weights in 4 bits, there is little to move, and"
    )
    if all(low <= 0 <= high for low, high in changes):
        return (
            f"{start} none of the {len(changes)} α brings the answers closer to the exact ones, or "
            "further away, by more than chance explains."
        )
    worse, better = sum(low > 0 for low, _ in changes), sum(high < 0 for _, high in changes)
    return (
        f"{start} {worse} of {len(changes)} α move the answers further from the exact ones, "
        f"{better} bring them closer."
    )


def _channels_picture(moves: Mapping[str, Mapping[str, Any]], name: str) -> Picture:
    """Both sides of the layer after a move, on axes that stay the same for all moves."""
    move = moves[_MOVES[name]]
    inputs, weights = tuple(move["inputs"]), tuple(move["weights"])
    ratio = format_number(max(inputs) / sorted(inputs)[len(inputs) // 2], 2)
    sides = [ChannelSide(inputs, None, ""), ChannelSide(weights, None, "")]
    title, labels = "Largest value of each channel", ["Inputs", "Weights that read them"]
    reached = [v for one in moves.values() for side in ("inputs", "weights") for v in one[side]]
    return Picture(
        channel_panels(title, sides, labels, "channel", "Largest |value|", reached=reached),
        f"With “{name}” the loudest input channel is {ratio} times the median channel.",
        (
            "Each mark is one channel: left its largest input, right the largest weight that "
            "reads it. Both panels have the same order.",
            "Moving the difficulty pulls one mark down on the left and lifts its partner on the "
            "right by the same factor. Each grid line is ten times the one below.",
        ),
        lambda: channel_rows(sides, labels),
        "channels",
    )


LESSON = Lesson(
    name="loud",
    title="Two loud channels",
    text=(
        "Numbers flow between layers in *channels*. In large language models a few channels carry "
        "numbers a hundred times larger than the rest. Here are two such **loud channels**. All "
        "channels share one ruler, so its marks lie far apart, and the quiet channels become "
        "nearly 0.\n\n"
        "A trick called *SmoothQuant*: divide each loud channel by a factor and multiply the "
        "weights that read it by the same factor. The product stays what it was. The setting **α** "
        "says how much goes over to the weights: 0 evens out the weights alone, 1 the inputs "
        "alone."
    ),
    question="The exact network computes the same after the trick. And the one rounded to 8 bits?",
    answers=(
        "The same as before: what is divided here is multiplied there",
        "Right again: weights had room to take over the difficulty",
        "Worse: now the weights are loud",
    ),
    controls=(
        Control("move", "What we do", tuple(_MOVES), _ASKED, "α is SmoothQuant's own setting."),
        Control(
            "case", "Network", tuple(_CASES), "loud channels, 8 bits", "Bits are those of weights."
        ),
    ),
    show=show,
    page="views/compare/compare.py",
    link={
        "a": settings_to_text(loud.case_settings(loud.LOUD, loud.NOTHING)),
        "b": settings_to_text(loud.case_settings(loud.LOUD, _MOVES[_ASKED])),
    },
    terms=("SmoothQuant", "outlier channel", "activation"),
)
