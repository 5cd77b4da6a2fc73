"""What each layer alone costs the output under each choice of bits: measured, else predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dashboard.data.prediction import Prediction
from dashboard.data.runs import Run
from dashboard.facts.outputs import measure_of, measured_alone
from dashboard.words.degradation import RATIO, degradation_interval
from dashboard.words.formatting import format_number, format_within
from quant_engine.sensitivity import ONE_AT_A_TIME
from quant_engine.variants import BOTH

Choice: TypeAlias = tuple[str, str]
"""A layer and the option chosen for it."""


@dataclass(frozen=True, slots=True)
class LayerEffect:
    """What one layer alone does to the output, the rest in float.

    Attributes:
        degradation: As the prediction counts it; see `outputs.measure_of`.
        is_measured: Whether the model was run for it; else it is predicted.
        interval: 95 % interval of what was measured; None where it is not known.
        decided_by: Of several outputs the one whose measured ratio it is; empty for one.
    """

    degradation: float
    is_measured: bool
    interval: tuple[float, float] | None = None
    decided_by: str = ""

    @property
    def text(self) -> str:
        """The number, with the digits that its interval supports; two where there is none."""
        if self.interval is None:
            return format_number(self.degradation, 2)
        return format_within(self.degradation, self.interval).split(" (")[0]


Effects: TypeAlias = Mapping[Choice, LayerEffect]


@dataclass(frozen=True, slots=True)
class LayerEffects:
    """Effects of single layers, by where they come from, the surest source first.

    Attributes:
        sources: A sensitivity measurement on all samples; the runs that check the predictions; the
            predictions.
    """

    sources: tuple[Effects, ...]

    def of(self, layer: str, option: str) -> LayerEffect:
        """Return what is known best of a layer under an option."""
        return next(source[layer, option] for source in self.sources if (layer, option) in source)

    def comparable(self, choices: Iterable[Choice]) -> Effects:
        """Return the effects of several choices, all from one source: measured where all were."""
        wanted = tuple(choices)
        source = next(s for s in self.sources if all(choice in s for choice in wanted))
        return {choice: source[choice] for choice in wanted}

    def worst(self, choices: Iterable[Choice]) -> str | None:
        """Return the layer that costs most under these choices, or None if there is none."""
        found = self.comparable(choices)
        layer, _ = max(found, key=lambda choice: found[choice].degradation, default=(None, ""))
        return layer


def layer_effects(run: Run, prediction: Prediction) -> LayerEffects:
    """Return what each layer alone costs under each option of a prediction."""
    checked = {
        point.configuration[0]: LayerEffect(point.measured, True, decided_by=point.decided_by)
        for point in prediction.response.report.agreement.single_points
        if len(point.configuration) == 1
    }
    predicted = {choice: LayerEffect(cost, False) for choice, cost in prediction.alone.items()}
    return LayerEffects((_from_sensitivities(run, prediction), checked, predicted))


def _from_sensitivities(run: Run, prediction: Prediction) -> dict[Choice, LayerEffect]:
    """Read the measurements that switched one layer, weights and inputs, on all samples."""
    own, stand_ins = prediction.configuration_of(run.recipe)
    found, measure = {}, measure_of(prediction)
    for report in run.sensitivities:
        if report.direction != ONE_AT_A_TIME or report.parts != BOTH or report.is_partial:
            continue
        for option in report.options:
            for layer in report.only(option).layers:
                choice = (layer.name, option or own.get(layer.name, ""))
                alone = measured_alone(layer, report, prediction)
                is_known = choice in prediction.alone and (option or layer.name not in stand_ins)
                if alone is not None and is_known:
                    # The interval is of what the report ranks by.
                    is_same = report.metric == measure.key and measure is not RATIO
                    interval = degradation_interval(measure, layer.interval) if is_same else None
                    found[choice] = LayerEffect(alone[0], True, interval, alone[1])
    return found
