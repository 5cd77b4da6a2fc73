"""From a float model and data to a quantized model, in one call."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from quant_engine.errors import require_choice
from quant_engine.execution.convert import EXECUTIONS, SIMULATED, convert_execution, remember_inputs
from quant_engine.model.batches import Data, count_batches
from quant_engine.model.copying import share_tensors
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import list_layers
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.quantization.calibration import Calibration, calibrate_prepared, recipe_or_default
from quant_engine.quantization.conversion import LayerPlan, convert, plan_layers
from quant_engine.quantization.setup import check_layer_names, kept_for_remedies
from quant_engine.remedies import treat_float_model, treat_quantized_model, treatment_steps
from quant_engine.report import Treatment
from quant_engine.scheme import Recipe


def quantize_model(
    model: nn.Module,
    calibration_data: Data | Calibration | None,
    recipe: Recipe | None = None,
    *,
    execution: str = SIMULATED,
    progress: Progress | None = None,
) -> nn.Module:
    """Return a quantized copy of a model.

    Args:
        model: The float model; it is not changed.
        calibration_data: A tensor or an iterable of batches, read once; or the result of
            `calibrate`; or None for a recipe without calibrated input ranges.
        recipe: How to quantize; `Recipe.default()` if None.
        execution: "simulated": integer codes are dequantized and summed in float32. "integer":
            products of codes are summed in int32; see `convert_execution`.
        progress: Called as progress(done, total, text); may raise to cancel.

    Returns:
        A copy in eval mode whose quantized layers hold int8 weights.

    Raises:
        SchemeError: If `recipe` is no Recipe or names layers that do not exist, or the execution
            is unknown.
        NotCalibratedError: If inputs are to be quantized without calibration data.
        DataError: If data or weights hold NaN or Inf; the message names batch or layer.
        ModelForwardError: If the model raises on the data.
        UnsupportedLayerError: If nothing in the model can be quantized.
    """
    recipe = recipe_or_default(recipe)
    require_choice("execution", execution, EXECUTIONS)
    calibration_data = kept_for_remedies(recipe.remedies, calibration_data)
    prepared, calibration_data, _ = prepare_for(model, calibration_data)
    layers = list_layers(prepared.model)
    check_layer_names(recipe, [layer.name for layer in layers])
    steps = treatment_steps(recipe, (layer.name for layer in layers if layer.is_quantizable))
    prepared = treat_float_model(prepared, recipe, calibration_data)
    if calibration_data is None or isinstance(calibration_data, Calibration):
        calibration = calibration_data
        meter = ProgressMeter(progress, steps)
    else:
        meter = ProgressMeter(progress, (count_batches(calibration_data) or 0) + steps)
        calibration = calibrate_prepared(prepared, calibration_data, meter)
    quantized = quantize_prepared(prepared, recipe, calibration, calibration_data, meter)
    if execution == SIMULATED or not any(plan.scheme for plan in quantized.plans):
        return quantized.model
    return convert_execution(quantized.model, execution)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A quantized model, and what was done to make it.

    Attributes:
        model: Shares with the float model what stays float.
        plans: What was done with each layer.
        treatments: What the recipe's remedies did, to float weights and afterwards.
    """

    model: nn.Module
    plans: tuple[LayerPlan, ...]
    treatments: tuple[Treatment, ...]


def quantize_prepared(
    prepared: PreparedModel,
    recipe: Recipe,
    calibration: Calibration | None,
    data: Data | Calibration | None,
    meter: ProgressMeter,
) -> Quantized:
    """Quantize a prepared model, which is not changed, as a recipe says; see `quantize_model`.

    Args:
        prepared: The model; remedies for float weights are applied to it already.
        recipe: How, and which remedies to apply to codes and biases.
        calibration: Ranges of the inputs; None for a recipe without calibrated ones.
        data: What the remedies run the model on, if there are any.
        meter: Told after every layer.
    """
    plans = plan_layers(prepared, recipe, calibration)
    model = convert(share_tensors(prepared.model), plans, calibration, meter)
    if prepared.samples is not None:
        remember_inputs(model, prepared.samples)
    done = treat_quantized_model(prepared, model, recipe, data, meter)
    return Quantized(model, plans, (*prepared.treatments, *done))
