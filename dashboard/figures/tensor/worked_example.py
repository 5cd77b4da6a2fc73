"""One element followed through the arithmetic: x / s, round, clamp, dequantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from dashboard.figures.kit.marks import dots
from dashboard.figures.kit.picture import Picture, Rows
from dashboard.figures.kit.theme import FLOAT, INT8, NEUTRAL, new_figure
from dashboard.words.formatting import format_number
from quant_engine.report import TensorReport, WorkedExample

_MINUS = "\N{MINUS SIGN}"
_NEIGHBOURS = 3
_MOST_STEPS = 24  # with more steps in view, the codes' numbers would run into each other


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the calculation.

    Attributes:
        name: What is done.
        formula: With the numbers put in.
        result: What comes out.
        meaning: Why, in a few words.
    """

    name: str
    formula: str
    result: str
    meaning: str


def _number(value: float) -> str:
    return format_number(value, 5)


def _whole(value: float) -> str:
    return f"{int(value)}".replace("-", _MINUS)


def _term(value: int) -> str:
    """A whole number that may follow an operator."""
    return f"({_whole(value)})" if value < 0 else _whole(value)


STEP_NAMES = ("Divide by the scale", "Round", "Add the zero point", "Clamp", "Dequantize", "Error")
"""The lines of the calculation, in their order."""


def worked_steps(tensor: TensorReport, example: WorkedExample) -> tuple[Step, ...]:
    """Return the calculation of an element, line by line."""
    scheme = tensor.scheme
    ratio = example.value / example.scale if example.scale else 0.0
    rounded = round(ratio)
    shifted = rounded + example.zero_point
    clamped = min(max(shifted, scheme.qmin), scheme.qmax)
    is_clipped = clamped != shifted
    error = example.dequantized - example.value
    lsb = error / example.scale if example.scale else 0.0
    codes = f"{_whole(scheme.qmin)} … {_whole(scheme.qmax)}"
    x, s = _number(example.value), _number(example.scale)
    lines = (
        (f"{x} / {s}", _number(ratio), "how many steps from zero"),
        (f"round({_number(ratio)})", _whole(rounded), "to the nearest step"),
        (
            f"{_whole(rounded)} + {_term(example.zero_point)}",
            _whole(shifted),
            "shifts the codes" if example.zero_point else "0 here: nothing is shifted",
        ),
        (
            f"{_whole(shifted)} into {codes}",
            _whole(example.code),
            "outside the codes: clipped" if is_clipped else "already inside the codes",
        ),
        (
            f"({_whole(example.code)} − {_term(example.zero_point)}) × {s}",
            _number(example.dequantized),
            "the value the layer computes with",
        ),
        (
            f"{_number(example.dequantized)} − {f'({x})' if example.value < 0 else x}",
            _number(error),
            f"{format_number(lsb)} LSB" + ("" if is_clipped else "; rounding stays within ±0.5"),
        ),
    )
    return tuple(Step(name, *line) for name, line in zip(STEP_NAMES, lines, strict=True))


def step_rows(tensor: TensorReport, example: WorkedExample) -> Rows:
    """Return the calculation as rows for people."""
    return [
        {"Step": s.name, "Numbers": s.formula, "Result": s.result, "Meaning": s.meaning}
        for s in worked_steps(tensor, example)
    ]


def worked_picture(tensor: TensorReport, example: WorkedExample) -> Picture:
    """Return an element on the number line, before and after."""
    became = " It became 0." if example.value and not example.dequantized else ""
    return Picture(
        _figure(tensor, example),
        f"{_number(example.value)} becomes code {example.code}, which stands for "
        f"{_number(example.dequantized)}.{became}",
        (
            "The grey marks are the values the grid can hold, with their integer codes.",
            "The blue diamond is the float value, the orange dot what it becomes.",
            "Rounding moves a value by at most half a step; more means it was clipped.",
        ),
        lambda: step_rows(tensor, example),
        "example",
    )


def _figure(tensor: TensorReport, example: WorkedExample) -> go.Figure:
    """The codes around an element as points on the value axis, with x before and after."""
    scheme = tensor.scheme
    first = max(scheme.qmin, example.code - _NEIGHBOURS)
    last = min(scheme.qmax, example.code + _NEIGHBOURS)
    codes = list(range(first, last + 1))
    values = [(code - example.zero_point) * example.scale for code in codes]
    reach = [*values, example.value]
    pad = max(0.6 * example.scale, 0.06 * (max(reach) - min(reach)))
    grid = _points("codes of the grid", values, 0.0, NEUTRAL, "line-ns-open", 16)
    is_far = (max(reach) - min(reach)) > _MOST_STEPS * example.scale
    grid |= {
        "mode": "markers+text",
        "text": ["" if is_far and code != example.code else _whole(code) for code in codes],
        "textposition": "bottom center",
        "textfont": {"size": 12},
        "customdata": codes,
        "hovertemplate": "code %{customdata} stands for %{x:.5g}<extra></extra>",
    }
    before = _points("float value x", [example.value], 1.0, FLOAT, "diamond", 14)
    after = _points("dequantized value", [example.dequantized], 0.0, INT8, "circle", 14)
    ends = {"x": example.dequantized, "y": 0.12, "ax": example.value, "ay": 0.9}
    axes = {"xref": "x", "yref": "y", "axref": "x", "ayref": "y"}
    looks = {"showarrow": True, "arrowhead": 2, "arrowwidth": 2, "arrowcolor": NEUTRAL}
    whose = " of its batch" if tensor.is_dynamic else ""
    return new_figure(
        f"One value on the grid{whose} (marks: integer codes)",
        "Value (units of the tensor)",
        traces=[grid, before, after],
        height=260,
        x_axis={"range": [min(reach) - pad, max(reach) + pad]},
        y_axis={"visible": False, "range": [-0.75, 1.4], "fixedrange": True},
        annotations=[{**ends, **axes, **looks, "text": ""}],
    )


def _points(
    name: str, x: list[float], y: float, color: str, symbol: str, size: int
) -> dict[str, Any]:
    hover = f"{name}: %{{x:.5g}}"
    return dots(
        x, [y] * len(x), color, name=name, hover=hover, edge_width=2, size=size, symbol=symbol
    )
