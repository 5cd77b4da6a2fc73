"""The layer to look at first: one definition for headline, sidebar, pages, report and commands.

It is the layer that costs the output most: measured where a sensitivity was, else predicted, else
the one with the largest error of its own. What it is named by stands beside its name everywhere,
for an error of a layer is no effect on the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dashboard.data.prediction import Prediction
from dashboard.facts.outputs import measure_of, measured_degradation
from dashboard.facts.sensitivity.metrics import available_metrics
from dashboard.facts.sensitivity.ranking import rank_layers, rivals_of_first
from dashboard.words.degradation import KL, RATIO, Degradation, degradation_by
from dashboard.words.formatting import format_db
from quant_engine.report import ModelReport, SensitivityReport
from quant_engine.scheme import Recipe
from quant_engine.sensitivity import ONE_AT_A_TIME
from quant_engine.variants import BOTH

MEASURED = "measured"
PREDICTED = "predicted"
LOCAL = "local"

BASIS_WORDS = {
    MEASURED: "measured effect on the output",
    PREDICTED: "predicted effect on the output",
    LOCAL: "error of its own",
}
"""What a culprit is named by, to follow "by its"."""


@dataclass(frozen=True, slots=True)
class OutputEffects:
    """What each layer alone costs the output under the run's own schemes, the rest in float.

    Attributes:
        basis: "measured" or "predicted".
        values: Layer name -> degradation of the output.
        measure: What the values are: what the output is judged by, or, of several outputs, the
            largest ratio.
        decided_by: Layer name -> name of the output with the largest ratio; empty for one output.
    """

    basis: str
    values: Mapping[str, float]
    measure: Degradation = KL
    decided_by: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return a layer's value with its unit, and of several outputs the one that gave it."""
        value, output = self.values[name], self.decided_by.get(name)
        text = self.measure.text(value) if self.measure is KL else self.measure.named(value)
        return f"{text} ({output})" if output else text


@dataclass(frozen=True, slots=True)
class Culprit:
    """The layer to look at first.

    Attributes:
        name: Its name.
        basis: "measured", "predicted" or "local".
        value: What it is named by: the effect on the output as `OutputEffects` has it, or for
            "local" its SQNR in dB.
        text: The value with its unit.
        tied: Layers that are statistically tied with it in a measured ranking.
    """

    name: str
    basis: str
    value: float
    text: str
    tied: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What it is named by, in one or two words, to stand beside the name."""
        return {MEASURED: "measured", PREDICTED: "predicted", LOCAL: "own error"}[self.basis]

    @property
    def sentence(self) -> str:
        """The layer, what it is named by, and the number."""
        tied = f" Statistically tied with {_names(self.tied)}." if self.tied else ""
        return f"{self.name}, by its {BASIS_WORDS[self.basis]}: {self.text}.{tied}"


def output_effects(
    report: ModelReport | None,
    sensitivities: Iterable[SensitivityReport] = (),
    predicted: OutputEffects | None = None,
) -> OutputEffects | None:
    """Return what each layer alone costs the output: measured, else predicted, else None.

    Leave-one-out measurements answer another question (what sparing a layer gains) and are not
    read; nor are other widths than the run's, weights or inputs alone, or measurements that were
    stopped early.

    Args:
        report: The analysis; None where there are only measurements.
        sensitivities: What was measured on top of it.
        predicted: What a prediction says of the same schemes, if there is one.
    """
    for measured in sensitivities:
        if _is_of_the_run(measured):
            return _measured_effects(measured)
    layers = () if report is None else report.quantized_layers
    if predicted is None or not any(layer.name in predicted.values for layer in layers):
        return None
    return predicted


def _measured_effects(measured: SensitivityReport) -> OutputEffects:
    if measured.metric == RATIO.key:
        ratios = {layer.name: layer.value for layer in measured.layers}
        decided = {layer.name: layer.decided_by for layer in measured.layers}
        return OutputEffects(MEASURED, ratios, RATIO, decided)
    measure = degradation_by(measured.metric)
    values = {layer.name: measured_degradation(layer, measure) for layer in measured.layers}
    return OutputEffects(MEASURED, {n: v for n, v in values.items() if v is not None}, measure)


def effects_under(prediction: Prediction, recipe: Recipe) -> OutputEffects:
    """Return what each layer alone is predicted to cost the output under a recipe.

    Layers whose scheme was none of the prediction's options are left out.
    """
    configuration, stand_ins = prediction.configuration_of(recipe)
    chosen = {n: option for n, option in configuration.items() if n not in stand_ins}
    values = {name: prediction.alone[name, option] for name, option in chosen.items()}
    measure = measure_of(prediction)
    decided: dict[str, str] = {}
    if measure is RATIO:
        decided = {n: prediction.score({n: option}).decided_by for n, option in chosen.items()}
    return OutputEffects(PREDICTED, values, measure, decided)


def find_culprit(
    report: ModelReport | None,
    sensitivities: Iterable[SensitivityReport] = (),
    predicted: OutputEffects | None = None,
) -> Culprit | None:
    """Return the layer to look at first; None where nothing was quantized or measured.

    Args:
        report: The analysis; None where there are only measurements.
        sensitivities: What was measured on top of it.
        predicted: What a prediction says of the same schemes, if there is one.
    """
    measured = tuple(sensitivities)
    effects = output_effects(report, measured, predicted)
    if effects is not None:
        values = {n: v for n, v in effects.values.items() if not math.isnan(v)}
        name = max(values, key=lambda layer: values[layer], default=None)
        if name is not None:
            is_measured = effects.basis == MEASURED
            tied = _tied_with(name, measured, effects.measure) if is_measured else ()
            return Culprit(name, effects.basis, values[name], effects.text(name), tied)
    layers = () if report is None else report.layers
    local = {x.name: x.local_error.sqnr_db for x in layers if x.local_error is not None}
    if not local:
        return None
    name = min(local, key=lambda layer: local[layer])
    return Culprit(name, LOCAL, local[name], f"{format_db(local[name])} SQNR")


def _is_of_the_run(measured: SensitivityReport) -> bool:
    """Whether a measurement switched each layer alone to the run's own scheme."""
    is_own = measured.direction == ONE_AT_A_TIME and measured.parts == BOTH
    is_plain = not any(measured.options) and not measured.is_partial
    return is_own and is_plain and bool(measured.layers)


def _tied_with(
    name: str, sensitivities: Iterable[SensitivityReport], measure: Degradation
) -> tuple[str, ...]:
    """Return the layers that a measurement ranks as possible firsts beside this one."""
    measured = next(s for s in sensitivities if _is_of_the_run(s))
    metric = next(m for m in available_metrics(measured) if m.key == measure.key)
    ranked = rank_layers(measured, metric)
    return rivals_of_first(ranked) if ranked and ranked[0].name == name else ()


def _names(names: tuple[str, ...]) -> str:
    if len(names) > 2:
        return f"{names[0]} and {len(names) - 1} more"
    return " and ".join(names)
