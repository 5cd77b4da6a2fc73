"""Where do numbers go? To the nearest mark, and each bit less doubles the way."""

from __future__ import annotations

import math
from dataclasses import replace

from dashboard.figures.learn.number_line import Move, number_line_picture
from dashboard.figures.tensor.distributions import lsb_picture
from dashboard.views.learn.lesson import Control, Lesson, Outcome, Values
from dashboard.words.formatting import format_count, format_db, format_number
from dashboard.work.lessons import sample_layers
from quant_engine.scheme import TensorScheme

_NUMBERS = {
    "evenly spread": (sample_layers.EVEN, ""),
    "trained MLP": ("mlp", "network.0"),
    "trained ResNet": ("resnet", "fc"),
}
"""Whose numbers may be looked at: a sample model and a layer."""
_SHOWN = 40
_MANY, _FEW = 8, 4
_FACTORS = (2.0, 16.0)
"""How much larger the error is, as the first answers have it."""
_UNPREDICTABLE = 1.5
"""From this ratio between layers on, the last answer would be right."""


def show(values: Values) -> Outcome:
    """Return where the numbers go with as many bits as chosen, and how far."""
    bits, label = int(values["bits"]), values["numbers"]
    scheme = _scheme(bits)
    report = sample_layers.weight_report(*_NUMBERS[label], scheme)
    some = sample_layers.some_rounded(*_NUMBERS[label], scheme, _SHOWN)
    moves = tuple(map(Move, some.values, some.codes, some.stand_ins))
    marks = [
        (code - report.zero_point[0]) * report.scale[0]
        for code in range(scheme.qmin, scheme.qmax + 1)
    ]
    growths = {name: _rms(name, _FEW) / _rms(name, _MANY) for name in _NUMBERS}
    per_bit = 20 * math.log10(growths["evenly spread"]) / (_MANY - _FEW)
    listed = ", ".join(f"{format_number(growth)} ({name})" for name, growth in growths.items())
    return Outcome(
        right=_right(tuple(growths.values())),
        truth=(
            f"From {_MANY} to {_FEW} bits, {2**_MANY} marks with {2**_MANY - 1} steps between them "
            f"become {2**_FEW} with {2**_FEW - 1}, so each step is "
            f"{format_number((2**_MANY - 1) / (2**_FEW - 1))} times as long. The typical error "
            f"(root mean square) grows with it, by the factor {listed}."
        ),
        pictures=(
            number_line_picture(moves, marks, f"{label}, {bits} bits"),
            replace(
                lsb_picture(report, "Numbers"),
                alt="No number moves by more than half a step; typically it is "
                f"{format_number(report.error.rmse_over_scale)} steps.",
            ),
        ),
        insight=(
            "Rounding misses by anything up to half a step, typically by "
            f"{format_number(report.error.rmse_over_scale, 2)} steps, whatever the numbers are, "
            f"and each bit less doubles the step: a bit is worth about {format_db(per_bit)} of "
            "signal to quantization noise (SQNR)."
        ),
        computed=(
            f"Computed now: {format_count(report.error.count)} numbers, {_whose(label)}, rounded "
            f"to {bits} bits with one scale. 1 LSB is one step; 20 dB more SQNR are an error ten "
            "times smaller."
        ),
    )


def _scheme(bits: int) -> TensorScheme:
    return TensorScheme(bits=bits, symmetric=False)


def _rms(label: str, bits: int) -> float:
    return sample_layers.weight_rms_error(*_NUMBERS[label], _scheme(bits))


def _right(growths: tuple[float, ...]) -> int:
    """The answer that the growth of the error fits, in factors; the last if it is no one number."""
    if max(growths) / min(growths) > _UNPREDICTABLE:
        return len(_FACTORS)
    growth = sum(growths) / len(growths)
    return min(range(len(_FACTORS)), key=lambda i: abs(math.log(growth / _FACTORS[i])))


def _whose(label: str) -> str:
    model, layer = _NUMBERS[label]
    return "evenly spread from -1 to 1" if not layer else f"the weights of {layer} of {model}"


LESSON = Lesson(
    name="steps",
    title="Where do numbers go?",
    text=(
        "A trained network is a long list of numbers, its *weights*. Each usually takes 32 bits, a "
        "*float*. **Quantization** stores them in 8 bits or fewer.\n\n"
        "Picture a ruler along the number line. Its marks are equally far apart, and it reaches "
        "from the smallest weight to the largest. Every weight moves to the nearest mark, and only "
        "the number of that mark is stored, its *code*. The distance between two marks is the "
        "*step*; engineers call it the *scale*.\n\n"
        "With 8 bits the ruler has 256 marks, with 4 bits it has 16. How far a number moved is its "
        "*rounding error*."
    ),
    question="We go from 8 bits to 4. How does the typical rounding error change?",
    answers=(
        "It doubles: half the bits, half as good",
        "It becomes about 16 times as large: each bit less doubles the step",
        "That differs from layer to layer, nobody can tell beforehand",
    ),
    controls=(
        Control(
            "bits",
            "Bits",
            ("2", "3", "4", "5", "6", "8"),
            "4",
            "How many bits a code has: each bit more doubles the number of marks.",
        ),
        Control(
            "numbers",
            "Whose numbers",
            tuple(_NUMBERS),
            "trained MLP",
            "Numbers spread evenly, or the weights of one layer of a trained network.",
        ),
    ),
    show=show,
    page="views/layer/layer.py",
    link={"run": "mlp int8_per_channel", "layer": "network.0", "tab": "Error"},
    terms=("scale", "code", "LSB", "SQNR", "rounding error", "half a step", "dequantized"),
)
