"""Which layers break the model: exact sensitivity by running it, one layer switched at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial

from torch import nn

from quant_engine.errors import SchemeError, require_choice
from quant_engine.judging.judged import MetricFunction
from quant_engine.judging.output import OutputChoice
from quant_engine.judging.reach import find_unreached
from quant_engine.model.batches import Data
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.setup import Setup, set_up
from quant_engine.remedies import remedies_left_out
from quant_engine.report import SensitivityReport
from quant_engine.scheme import Candidate, Recipe
from quant_engine.sensitivity.curve import CURVE_POINTS
from quant_engine.sensitivity.measurement import (
    DIRECTIONS,
    ONE_AT_A_TIME,
    Measurement,
    OnUpdate,
    Sweep,
)
from quant_engine.variants.executors import run_elsewhere, run_here
from quant_engine.variants.layers import BOTH, PARTS, build_forms
from quant_engine.variants.options import Options, name_options
from quant_engine.variants.runner import VariantRunner

_NOT_ELSEWHERE = (
    "It was measured in this process and not on the executor, as no batch can do without the state "
    "that the one before it left."
)


def measure_sensitivity(
    model: nn.Module,
    calibration_data: Data | Calibration,
    recipe: Recipe | None = None,
    *,
    evaluation_data: Data | None = None,
    direction: str = ONE_AT_A_TIME,
    options: Options | None = None,
    parts: str = BOTH,
    output: OutputChoice = None,
    metric: str | MetricFunction | None = None,
    model_name: str = "",
    seed: int = 0,
    with_cumulative: bool = True,
    curve_points: int | None = CURVE_POINTS,
    precision: float | None = None,
    progress: Progress | None = None,
    on_update: OnUpdate | None = None,
    executor: Executor | None = None,
) -> SensitivityReport:
    """Measure what each layer's quantization does to the model's output, by running it.

    Activations of one batch are held at a time; of the batches before, a few numbers for each
    sample and variant.

    Args:
        model: The float model; it is not changed.
        calibration_data: A tensor or an iterable of batches, or the result of `calibrate`. It is
            read once, however many options there are.
        recipe: Whose layers are switched; `Recipe.default()` if None.
        evaluation_data: What the effect is measured on. If None, the calibration data; needed if
            that is a Calibration.
        direction: "one_at_a_time": only this layer quantized, the rest float. "leave_one_out":
            every layer of the recipe quantized but this one.
        options: Schemes to try on every layer that the recipe quantizes, in place of the recipe's
            own, all in one sweep; a mapping names them, and a list gets names. If None, each layer
            has the recipe's scheme.
        parts: "both", or only "weights", or only "activations": the inputs of layers are rounded
            and the weights stay float.
        output: What of the model's answer is judged: an `Output` or several. If None, a few samples
            decide, and `judged` in the report says how. Of several outputs each is measured in its
            own unit; `value`, intervals and rankings are then about the largest share of what the
            fully quantized model does to one of them.
        metric: What `value`, intervals and rankings are about: a name of `METRICS`, or a function
            (float_output, quantized_output) that returns one number per sample, of which larger is
            worse. If None, the usual one of the kind of output: KL divergence, NMSE, cosine, mean
            IoU or PSNR.
        model_name: What to call the model in the report.
        seed: Seed of the bootstrap behind intervals and comparisons.
        with_cumulative: Whether to measure the curve of quantizing the k least sensitive layers.
        curve_points: At how many counts that curve is measured, at least 3: none quantized, all,
            and those where it is expected to change most by what each layer does when switched by
            itself. None for every count.
        precision: Where to stop early, as a share between 0 and 1. After 1, 2, 4, ... batches, a
            layer that does less than this share of what the most sensitive one does, by the 99 %
            interval of the difference (a paired bootstrap), is not run on further ones, once there
            are 128 samples. It is then judged on the samples that it saw, which the report says
            (`samples` of the layer, and a note); comparisons with it are on these. None runs every
            layer on all samples.
        progress: Called after every forward pass; may raise to cancel.
        on_update: Called after every batch with a function that returns the report of what is known
            so far. All its layers are measured on the same samples, but for those stopped early.
        executor: Where to run; see `executors`. This process if None. Results are the same.

    Returns:
        The report; layers in the order they run, each under every option.

    Raises:
        SchemeError: If a setting is not allowed, `recipe` is no Recipe, or it names layers that do
            not exist.
        DataError: If data or weights are empty, malformed, or hold NaN or Inf, or model or data do
            not give what the metric needs.
        ModelForwardError: If the model raises on the data.
        UnsupportedLayerError: If there is nothing to quantize under one of the options.
        WorkerError: If the executor fails.
    """
    _check_settings(direction, parts, seed, curve_points, precision)
    setup = set_up(
        model,
        calibration_data,
        recipe,
        evaluation_data,
        output=output,
        metric=metric,
        reads_often=True,
        is_sent=executor is not None,
    )
    prepared, judged, recipe = setup.prepared, setup.judged, setup.recipe
    meter = ProgressMeter(progress, 0)
    calibration = setup.calibrate(meter)
    named = None if options is None else _named(options)
    forms = build_forms(model, prepared, recipe, named, calibration, meter, parts=parts)
    runner = VariantRunner(prepared.model, forms.modules, state=prepared.state, judged=judged)
    sweep, notes = _where_to_run(runner, executor, prepared)
    empty = _empty_report(setup, named, model_name, direction, parts, seed, notes)
    measurement = Measurement(
        sweep=sweep,
        data=setup.evaluation_data,
        forms=forms,
        judged=judged.outputs,
        empty=empty,
        unreached=find_unreached(prepared, judged, list(forms.modules)),
        curve_points=curve_points if with_cumulative else 0,
        precision=precision,
    )
    meter.extend(measurement.count_runs() * (setup.evaluation_batches or 1))
    measurement.measure_layers(meter, on_update)
    if with_cumulative:
        measurement.accumulate(meter)
    return measurement.report(is_partial=False)


def _empty_report(
    setup: Setup,
    options: Mapping[str, Candidate] | None,
    model_name: str,
    direction: str,
    parts: str,
    seed: int,
    notes: Sequence[str],
) -> SensitivityReport:
    """Return the report with its settings, before anything is measured."""
    return SensitivityReport(
        model_name=model_name,
        recipe=setup.recipe,
        direction=direction,
        layers=(),
        reference=None,
        cumulative=(),
        samples=0,
        accuracy_float=None,
        seed=seed,
        is_partial=True,
        notes=(*setup.judged.notes, *remedies_left_out(setup.recipe), *notes),
        metric="",  # known once something is measured
        parts=parts,
        references=(),
        rankings=(),
        judged=setup.judged.line,
        schemes=tuple(option.scheme for option in options.values()) if options else (),
    )


def _check_settings(
    direction: str, parts: str, seed: int, curve_points: int | None, precision: float | None
) -> None:
    require_choice("direction", direction, DIRECTIONS)
    require_choice("parts", parts, PARTS)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SchemeError(f"seed is {seed!r}. It must be an integer from 0 up.")
    if curve_points is not None and (type(curve_points) is not int or curve_points < 3):
        raise SchemeError(
            f"curve_points is {curve_points!r}. It must be an integer from 3 up, or None for every "
            "count; with_cumulative=False measures no curve."
        )
    if precision is not None and not (isinstance(precision, int | float) and 0 < precision < 1):
        raise SchemeError(f"precision is {precision!r}. It must lie between 0 and 1, or be None.")


def _named(options: Options) -> dict[str, Candidate]:
    named = name_options(options)
    if any(option.remedies for option in named.values()):
        raise SchemeError(
            "options holds candidates with remedies, which sensitivity does not measure. "
            "`LogitResponse.measure` predicts them, `verify_configurations` runs them."
        )
    return named


def _where_to_run(
    runner: VariantRunner, executor: Executor | None, prepared: PreparedModel
) -> tuple[Sweep, tuple[str, ...]]:
    """Return what runs variants, here or on the executor, and what the report says about it."""
    notes = prepared.state.notes
    if executor is None:
        return partial(run_here, runner), notes
    if prepared.state.reaches_next:
        return partial(run_here, runner), (*notes, _NOT_ELSEWHERE)
    return partial(run_elsewhere, executor, runner), notes
