"""The main job: calibrate, quantize, compare layer by layer, and report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import nn

from quant_engine.analysis.coverage import measure_coverage
from quant_engine.analysis.layerwise import LayerwiseComparison
from quant_engine.analysis.tensor_reports import (
    input_channels,
    input_report,
    range_choices,
    weight_report,
)
from quant_engine.analysis.times import add_times, budget_after, check_budget
from quant_engine.execution.clock import Stopwatch, describe_environment
from quant_engine.judging.judged import Judged, MetricFunction
from quant_engine.judging.output import OutputChoice
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch, Data, iterate_batches
from quant_engine.model.modules import named_parameters_of
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import list_layers
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.conversion import LayerPlan, describe_cut_ties
from quant_engine.quantization.quantize import quantize_prepared
from quant_engine.quantization.setup import set_up
from quant_engine.quantization.size import layer_size, measure_size
from quant_engine.remedies import treatment_steps
from quant_engine.report import (
    TIMES_FOLLOW,
    LayerReport,
    ModelReport,
    RangeChoice,
    SizeReport,
    TensorReport,
)
from quant_engine.scheme import Recipe

OnUpdate: TypeAlias = Callable[[Callable[[], ModelReport]], None]
"""Called often with a function that builds the report of what is known so far."""


def analyze(
    model: nn.Module,
    calibration_data: Data | Calibration,
    recipe: Recipe | None = None,
    *,
    evaluation_data: Data | None = None,
    output: OutputChoice = None,
    metric: str | MetricFunction | None = None,
    model_name: str = "",
    measure_time: bool = True,
    time_budget_s: float | None = None,
    progress: Progress | None = None,
    on_update: OnUpdate | None = None,
) -> ModelReport:
    """Quantize a model and report what that did, layer by layer.

    One pass over the calibration data chooses the ranges; one pass over the evaluation data
    measures every error. Memory holds one batch's activations and one histogram per layer.

    With a dynamic scheme an input's range, and so its error, depends on which samples stand in a
    batch together: errors are those for evaluation data cut into batches as it comes. The report
    holds the batch size (`evaluation_batch_size`).

    Args:
        model: The float model; it is not changed.
        calibration_data: A tensor or an iterable of batches, read once; or the result of
            `calibrate` for this model.
        recipe: How to quantize; `Recipe.default()` if None.
        evaluation_data: What errors are measured on. If None, the calibration data is read again
            (an iterator, which cannot be, is kept in memory as it is read).
        output: What of the model's answer is judged: an `Output` or several. If None, a few samples
            decide, and `judged` in the report says how.
        metric: Which number is about it, by name or a function; see `measure_sensitivity`.
        model_name: What to call the model in the report.
        measure_time: Whether to time the models too, at the end; `measure_times` does it later.
        time_budget_s: Most seconds for timing. If None, as long as all before it took, but at
            least 5 and at most 10.
        progress: Called as progress(done, total, text); may raise to cancel.
        on_update: Called after every layer and batch with a function that returns the report of
            what is known so far, marked partial; and once before the models are timed, when that
            is everything but their times: not partial, with the note `TIMES_FOLLOW`.

    Returns:
        The report.

    Raises:
        SchemeError: If `recipe` is no Recipe, or names layers that do not exist.
        DataError: If data or weights are empty, malformed, or hold NaN or Inf; or if the time
            budget is not positive.
        ModelForwardError: If the model raises on the data.
        UnsupportedLayerError: If nothing in the model can be quantized.
    """
    watch = Stopwatch()
    check_budget(time_budget_s)
    is_separate = evaluation_data is not None
    setup = set_up(model, calibration_data, recipe, evaluation_data, output=output, metric=metric)
    prepared, judged, recipe = setup.prepared, setup.judged, setup.recipe
    layers = [layer.name for layer in list_layers(prepared.model) if layer.is_quantizable]
    steps = setup.calibration_batches + setup.evaluation_batches + 2 * len(layers) + 1
    steps += treatment_steps(recipe, layers)
    meter = ProgressMeter(progress, steps)
    calibration = setup.calibrate(meter)
    made = quantize_prepared(prepared, recipe, calibration, setup.calibration_data, meter)
    prepared = replace(prepared, treatments=made.treatments)
    quantized, plans = made.model, made.plans
    run = _Analysis(
        model, prepared, judged, quantized, calibration, plans, recipe, model_name, is_separate
    )
    run.describe_weights(meter, on_update)
    batches = iterate_batches(setup.evaluation_data, "evaluation_data")
    first = run.compare(batches, meter, on_update)
    run.size = measure_size(model, quantized, plans)
    report = run.report(is_partial=False)
    if not measure_time:
        return report
    if on_update is not None:
        on_update(lambda: replace(report, notes=(*report.notes, TIMES_FOLLOW)))
    seconds = time_budget_s or budget_after(watch.seconds)
    return add_times(report, prepared, judged, quantized, first, seconds, meter)


@dataclass(slots=True, eq=False)
class _Analysis:
    """An analysis under way; `report` can be asked for at any time."""

    original: nn.Module
    prepared: PreparedModel
    judged: Judged
    quantized: nn.Module
    calibration: Calibration
    plans: tuple[LayerPlan, ...]
    recipe: Recipe
    model_name: str
    has_evaluation_data: bool
    comparison: LayerwiseComparison = field(init=False)
    weights: dict[str, TensorReport] = field(default_factory=dict)
    choices: dict[str, tuple[RangeChoice, ...]] = field(default_factory=dict)
    size: SizeReport | None = None

    def __post_init__(self) -> None:
        ranges = {
            name: (seen.lo, seen.hi)
            for name, seen in self.calibration.histograms.items()
            if seen.count
        }
        self.comparison = LayerwiseComparison(
            self.prepared.model,
            self.quantized,
            self.plans,
            ranges,
            self.prepared.state,
            self.judged,
        )

    def describe_weights(self, meter: ProgressMeter, on_update: OnUpdate | None) -> None:
        """Describe every quantized weight, and compare the range rules for every input."""
        every = {p.layer.name: self.quantized.get_submodule(p.layer.name) for p in self.plans}
        layers = {name: x for name, x in every.items() if isinstance(x, QuantizedLayer)}
        for number, (name, layer) in enumerate(layers.items(), start=1):
            weight = self.prepared.model.get_submodule(name).weight
            assert isinstance(weight, torch.Tensor)
            self.weights[name] = weight_report(weight, layer)
            if layer.input_qparams is not None and layer.scheme.activation is not None:
                histogram = self.calibration.histograms[name]
                self.choices[name] = range_choices(histogram.binned(), layer.scheme.activation)
            self._announce(on_update)
            meter.step(f"measure the weights of {name} (layer {number} of {len(layers)})")

    def compare(
        self, batches: Iterator[Batch], meter: ProgressMeter, on_update: OnUpdate | None
    ) -> Batch:
        """Stream the evaluation data; returns the first batch."""
        first = None
        for number, batch in enumerate(batches, start=1):
            first = first or batch
            self.comparison.update(batch)
            self._announce(on_update)
            meter.step(f"measure every layer's error: batch {number}")
        assert first is not None
        return first

    def report(self, *, is_partial: bool) -> ModelReport:
        """Return what is known so far."""
        outputs = self.comparison.output.reports() if self.comparison.samples else ()
        # In the order in which they first ran; layers that never did come last.
        order = {name: index for index, name in enumerate(self.calibration.calls)}
        plans = sorted(self.plans, key=lambda plan: order.get(plan.layer.name, len(order)))
        return ModelReport(
            model_name=self.model_name,
            recipe=self.recipe,
            layers=tuple(self._layer_report(plan) for plan in plans),
            output=outputs[0] if outputs else None,
            outputs=outputs,
            size=self.size,
            timing=None,
            environment=describe_environment(),
            calibration_samples=self.calibration.samples,
            evaluation_samples=self.comparison.samples,
            evaluated_on_calibration_data=not self.has_evaluation_data,
            is_partial=is_partial,
            notes=(*self.judged.notes, *self.prepared.notes, *self._notes()),
            judged=self.judged.line,
            evaluation_batches=self.comparison.batches,
            evaluation_batch_size=self.comparison.batch_size,
            coverage=measure_coverage(self.prepared.model, self.quantized, self.plans),
            treatments=self.prepared.treatments,
        )

    def _announce(self, on_update: OnUpdate | None) -> None:
        if on_update is not None:
            on_update(lambda: self.report(is_partial=True))

    def _layer_report(self, plan: LayerPlan) -> LayerReport:
        name = plan.layer.name
        module = self.prepared.model.get_submodule(name)
        stands = self.quantized.get_submodule(name)
        layer = stands if isinstance(stands, QuantizedLayer) else None
        stats = self.comparison.layers[name]
        weight = named_parameters_of(module).get("weight")
        histogram, choices = self.calibration.histograms.get(name), self.choices.get(name, ())
        return LayerReport(
            name=name,
            kind=type(module).__name__,
            status=plan.status,
            reason=plan.reason,
            parameters=sum(p.numel() for p in module._parameters.values() if p is not None),
            weight_shape=() if weight is None else tuple(weight.shape),
            calls=round(stats.calls / stats.passes) if stats.passes else 0,
            input_shape=stats.input_shape,
            output_shape=stats.output_shape,
            size=layer_size(module, stands),
            weight=self.weights.get(name),
            input=input_report(layer, histogram, stats, choices) if layer else None,
            local_error=stats.local.pooled.metrics() if stats.calls and layer else None,
            accumulated_error=(
                stats.accumulated.pooled.metrics() if stats.accumulated.pooled.count else None
            ),
            input_scheme=layer.scheme.activation if layer else None,
            input_channels=input_channels(stats),
            local_relative=stats.local.relative() if layer else None,
            accumulated_relative=stats.accumulated.relative(),
        )

    def _notes(self) -> list[str]:
        notes = describe_cut_ties(self.prepared.model, self.plans)
        for name, stats in self.comparison.layers.items():
            if stats.unmatched:
                notes.append(
                    f"{name}: {stats.unmatched} of its outputs have no counterpart in the "
                    "quantized model (another shape or fewer calls); its accumulated error "
                    "leaves them out."
                )
        return notes
