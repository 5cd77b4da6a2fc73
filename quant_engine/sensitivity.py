"""Which layers break the model: exact sensitivity by running it, one layer switched at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from torch import nn

from quant_engine.batches import Batch, Data, count_batches, is_rereadable, iterate_batches
from quant_engine.calibration import Calibration, calibrate_prepared, recipe_or_default
from quant_engine.choices import suggest
from quant_engine.conversion import check_layer_names, convert, plan_layers
from quant_engine.errors import SchemeError, UnsupportedLayerError
from quant_engine.intervals import bootstrap_intervals
from quant_engine.layers import QuantizedLayer
from quant_engine.model_size import layer_size, mixed_bytes, total_bytes
from quant_engine.options import describe_option
from quant_engine.preparation import prepare
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.report import CumulativePoint, LayerSensitivity, LayerSize, SensitivityReport
from quant_engine.scheme import Recipe
from quant_engine.selection import list_layers
from quant_engine.statistics import to_nmse, to_sqnr_db
from quant_engine.sweep import BatchOutcome, Outcome, VariantRunner, share_tensors

ONE_AT_A_TIME = "one_at_a_time"
LEAVE_ONE_OUT = "leave_one_out"
DIRECTIONS = (ONE_AT_A_TIME, LEAVE_ONE_OUT)

OnUpdate: TypeAlias = Callable[[Callable[[], SensitivityReport]], None]
"""Called often with a function that builds the report of what is known so far."""


def measure_sensitivity(
    model: nn.Module,
    calibration_data: Data | Calibration,
    recipe: Recipe | None = None,
    *,
    evaluation_data: Data | None = None,
    direction: str = ONE_AT_A_TIME,
    model_name: str = "",
    seed: int = 0,
    with_cumulative: bool = True,
    progress: Progress | None = None,
    on_update: OnUpdate | None = None,
    executor: Executor | None = None,
) -> SensitivityReport:
    """Measure what each layer's quantization does to the model's output, by running it.

    Args:
        model: The float model; it is not changed.
        calibration_data: A tensor or an iterable of batches, or the result of `calibrate`.
        recipe: Whose layers are switched; `Recipe.default()` if None.
        evaluation_data: What the effect is measured on. If None, the calibration data.
        direction: "one_at_a_time": only this layer quantized, the rest float. "leave_one_out":
            every layer of the recipe quantized but this one.
        model_name: What to call the model in the report.
        seed: Seed of the bootstrap behind the intervals.
        with_cumulative: Whether to measure the curve of quantizing the k least sensitive layers.
        progress: Called after every forward pass; may raise to cancel.
        on_update: Called often with a function that returns the report of what is known so far.
            All its layers are measured on the same samples.
        executor: Where to run; one task a batch. This process if None. Results are the same.

    Returns:
        The report; layers in the order they run.

    Raises:
        SchemeError: If direction or seed is not allowed, `recipe` is no Recipe, or it names layers
            that do not exist.
        DataError: If data or weights are empty, malformed, or hold NaN or Inf.
        ModelForwardError: If the model raises on the data.
        UnsupportedLayerError: If the recipe quantizes no layer of the model.
    """
    recipe = recipe_or_default(recipe)
    if direction not in DIRECTIONS:
        raise SchemeError(f"direction is {direction!r}. {suggest(str(direction), DIRECTIONS)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SchemeError(f"seed is {seed!r}. It must be a whole number from 0 up.")
    prepared = prepare(model)
    check_layer_names(recipe, [layer.name for layer in list_layers(prepared.model)])
    if evaluation_data is None:
        if isinstance(calibration_data, Calibration):
            raise SchemeError(
                "calibration_data is a Calibration, which holds no data to run the model on. "
                "Give evaluation_data."
            )
        if not is_rereadable(calibration_data):
            calibration_data = list(calibration_data)
        evaluation_data = calibration_data
    if not is_rereadable(evaluation_data):
        evaluation_data = list(evaluation_data)
    meter = ProgressMeter(progress, 0)
    if isinstance(calibration_data, Calibration):
        calibration = calibration_data
    else:
        calibration = calibrate_prepared(prepared, calibration_data, recipe, meter)
    plans = plan_layers(prepared, recipe, calibration)
    quantized = convert(share_tensors(prepared.model), plans, calibration, meter)
    order = {name: place for place, name in enumerate(calibration.calls)}
    names = sorted(
        (plan.layer.name for plan in plans if plan.scheme is not None), key=lambda n: order[n]
    )
    layers: dict[str, QuantizedLayer] = {}
    sizes: dict[str, LayerSize] = {}
    parameters: dict[str, int] = {}
    for name in names:
        layer = quantized.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        layers[name] = layer
        module = prepared.model.get_submodule(name)
        sizes[name] = layer_size(module, layer)
        parameters[name] = sum(p.numel() for p in module.parameters(recurse=False))
    if not layers:
        raise UnsupportedLayerError("The recipe quantizes no layer of this model. Exclude fewer.")
    measurement = _Measurement(
        runner=VariantRunner(prepared.model, layers),
        names=tuple(names),
        sizes=sizes,
        parameters=parameters,
        options={name: describe_option(layers[name].scheme) for name in names},
        bytes_with=partial(mixed_bytes, prepared.model, layers),
        float_bytes=total_bytes(model),
        empty=SensitivityReport(model_name, recipe, direction, (), None, (), 0, None, seed),
        executor=executor,
    )
    batches = count_batches(evaluation_data) or 1
    runs = (len(names) + 1) * batches * (2 if with_cumulative else 1)
    meter.extend(runs)
    measurement.sweep(evaluation_data, meter, on_update)
    if with_cumulative:
        measurement.accumulate(evaluation_data, meter, on_update)
    return measurement.report(is_partial=False)


@dataclass(slots=True, eq=False)
class _Measurement:
    """A measurement under way; `report` can be asked for at any time."""

    runner: VariantRunner
    names: tuple[str, ...]
    sizes: dict[str, LayerSize]
    parameters: dict[str, int]
    options: dict[str, str]
    bytes_with: Callable[[Collection[str]], int]
    float_bytes: int
    empty: SensitivityReport
    executor: Executor | None
    outcomes: list[BatchOutcome] = field(default_factory=list)
    cumulative: tuple[CumulativePoint, ...] = ()

    def sweep(self, data: Data, meter: ProgressMeter, on_update: OnUpdate | None) -> None:
        """Measure every layer and the fully quantized model."""
        self.outcomes = self._run(data, self._variants(), "sensitivity", meter, on_update)

    def accumulate(self, data: Data, meter: ProgressMeter, on_update: OnUpdate | None) -> None:
        """Measure the curve of quantizing the k least sensitive layers."""
        ranking = self._least_sensitive_first()
        variants = [ranking[:count] for count in range(len(ranking) + 1)]
        outcomes = self._run(data, variants, "k least sensitive layers", meter, None)
        signal = np.concatenate([part.signal for part in outcomes]).sum()
        points = []
        for count in range(len(variants)):
            joined = Outcome.join([part.variants[count] for part in outcomes])
            points.append(
                CumulativePoint(
                    count=count,
                    layer=ranking[count - 1] if count else "",
                    kl_divergence=_mean(joined.divergence),
                    sqnr_db=to_sqnr_db(float(signal), float(joined.noise.sum())),
                    accuracy=_mean(joined.correct),
                    model_bytes=self.bytes_with(variants[count]) if count else self.float_bytes,
                )
            )
        self.cumulative = tuple(points)

    def report(self, *, is_partial: bool) -> SensitivityReport:
        """Return what is known so far."""
        outcomes = self.outcomes
        if not outcomes:
            return replace(self.empty, is_partial=is_partial)
        joined = [
            Outcome.join([part.variants[number] for part in outcomes])
            for number in range(len(outcomes[0].variants))
        ]
        signal = np.concatenate([part.signal for part in outcomes])
        correct = [part.correct_float for part in outcomes]
        known = [part for part in correct if part is not None]
        accuracy = (
            float(np.concatenate(known).mean()) if known and len(known) == len(correct) else None
        )
        measured = [outcome.divergence for outcome in joined]
        divergences = [values for values in measured if values is not None]
        seed = self.empty.seed
        if len(divergences) == len(joined):
            intervals = bootstrap_intervals(np.stack(divergences), seed=seed)
        else:
            noise = np.stack([outcome.noise for outcome in joined])
            intervals = bootstrap_intervals(noise, signal, seed=seed)
        entries = [
            self._entry(number, outcome, float(signal.sum()), accuracy, interval)
            for number, (outcome, interval) in enumerate(zip(joined, intervals, strict=True))
        ]
        return replace(
            self.empty,
            layers=tuple(entries[1:]),
            reference=entries[0],
            cumulative=self.cumulative,
            samples=len(signal),
            accuracy_float=accuracy,
            is_partial=is_partial,
            notes=_notes(outcomes),
        )

    def _variants(self) -> list[tuple[str, ...]]:
        """Return the sets of quantized layers: first all of them, then one set for each layer."""
        if self.empty.direction == ONE_AT_A_TIME:
            return [self.names, *((name,) for name in self.names)]
        return [self.names, *(tuple(n for n in self.names if n != name) for name in self.names)]

    def _run(
        self,
        data: Data,
        variants: Sequence[Sequence[str]],
        text: str,
        meter: ProgressMeter,
        on_update: OnUpdate | None,
    ) -> list[BatchOutcome]:
        batches = iterate_batches(data, "evaluation_data")
        if self.executor is not None:
            return self._run_elsewhere(self.executor, batches, variants, text, meter)
        outcomes: list[BatchOutcome] = []
        for number, batch in enumerate(batches, start=1):

            def after(done: int, number: int = number) -> None:
                meter.step(f"{text}: batch {number}, run {done}/{len(variants)}")

            outcomes.append(self.runner.run(batch, variants, after))
            if on_update is not None:
                self.outcomes = outcomes
                on_update(lambda: self.report(is_partial=True))
        return outcomes

    def _run_elsewhere(
        self,
        executor: Executor,
        batches: Iterable[Batch],
        variants: Sequence[Sequence[str]],
        text: str,
        meter: ProgressMeter,
    ) -> list[BatchOutcome]:
        futures: list[Future[BatchOutcome]] = [
            executor.submit(self.runner.run, batch, variants) for batch in batches
        ]
        outcomes = []
        try:
            for number, future in enumerate(futures, start=1):
                outcomes.append(future.result())
                meter.step(f"{text}: batch {number}/{len(futures)}")
        finally:
            for future in futures:
                future.cancel()
        return outcomes

    def _entry(
        self,
        number: int,
        outcome: Outcome,
        signal: float,
        accuracy: float | None,
        interval: tuple[float, float],
    ) -> LayerSensitivity:
        is_reference = number == 0
        names = self.names if is_reference else (self.names[number - 1],)
        sizes = [self.sizes[name] for name in names]
        noise = float(outcome.noise.sum())
        correct = _mean(outcome.correct)
        drop = None if accuracy is None or correct is None else accuracy - correct
        return LayerSensitivity(
            name="" if is_reference else names[0],
            option="all layers of the recipe" if is_reference else self.options[names[0]],
            kl_divergence=_mean(outcome.divergence),
            interval=interval,
            sqnr_db=to_sqnr_db(signal, noise),
            nmse=to_nmse(signal, noise),
            top1_agreement=_mean(outcome.agreement),
            accuracy_drop=drop,
            float_bytes=sum(size.float_bytes for size in sizes),
            quantized_bytes=sum(size.quantized_bytes for size in sizes),
            parameters=sum(self.parameters[name] for name in names),
        )

    def _least_sensitive_first(self) -> list[str]:
        """Sort layers by the harm they do: alone, or by how little sparing them helps."""
        entries = self.report(is_partial=True).layers
        has_logits = all(entry.kl_divergence is not None for entry in entries)

        def harm(entry: LayerSensitivity) -> float:
            value = entry.kl_divergence if has_logits else entry.nmse
            assert value is not None
            return value if self.empty.direction == ONE_AT_A_TIME else -value

        return [entry.name for entry in sorted(entries, key=harm)]


def _notes(outcomes: Sequence[BatchOutcome]) -> tuple[str, ...]:
    reasons = dict.fromkeys(part.full_forwards_because for part in outcomes)
    return tuple(f"Every run was a full forward pass: {reason}." for reason in reasons if reason)


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]] | None) -> float | None:
    return None if values is None else float(values.mean())
