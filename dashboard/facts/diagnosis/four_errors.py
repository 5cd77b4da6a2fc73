"""Four errors of every layer: weight, local, accumulated, and the output's.

The first three are relative, channel by channel: root of the mean over channels of Σ(x̂-x)² / Σx².
A channel that was lost counts as much as a large one that was kept, so a broken layer looks broken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dashboard.facts.diagnosis.causes import accumulated_relative, local_relative, weight_relative
from dashboard.facts.diagnosis.culprit import MEASURED, OutputEffects
from quant_engine.report import ModelReport

COLUMNS = ("weight", "local", "accumulated", "output")
"""The errors, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """The four errors of one layer; None where one was not measured.

    Attributes:
        name: Name of the layer.
        weight: Relative error of its weight.
        local: Relative error of its output when it alone is quantized.
        accumulated: Relative error of its output inside the quantized model.
        output: What it alone costs the model's output; see `OutputEffects.measure`.
        increase: How much the accumulated error grows over the layer that ran before.
    """

    name: str
    weight: float | None
    local: float | None
    accumulated: float | None
    output: float | None
    increase: float

    def value(self, column: str) -> float | None:
        """Return the error of a column, one of `COLUMNS`."""
        found: float | None = getattr(self, column)
        return found


def rank_errors(report: ModelReport, effects: OutputEffects | None = None) -> tuple[ErrorRow, ...]:
    """Return one row for each layer, ranked: by the output's error, else by what it adds.

    Without effects on the output, the layer at which the accumulated error grows most is first.
    """
    rows, before = [], 0.0
    for layer in report.layers:
        accumulated = accumulated_relative(layer)
        increase = 0.0 if accumulated is None else accumulated - before
        before = before if accumulated is None else accumulated
        output = None if effects is None else effects.values.get(layer.name)
        errors = (weight_relative(layer), local_relative(layer), accumulated, output)
        rows.append(ErrorRow(layer.name, *errors, increase))
    if effects is None:
        return tuple(sorted(rows, key=lambda row: -row.increase))
    return tuple(sorted(rows, key=lambda row: math.inf if row.output is None else -row.output))


def ranked_by(effects: OutputEffects | None) -> str:
    """Say what the rows are ranked by."""
    if effects is None:
        return "ranked by the increase of the accumulated error"
    word = "measured" if effects.basis == MEASURED else "predicted"
    return f"ranked by the {word} output error"
