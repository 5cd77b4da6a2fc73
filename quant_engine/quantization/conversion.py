"""From a prepared float model and its calibration to the quantized copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from quant_engine.errors import DataError, NotCalibratedError, QuantizationError
from quant_engine.layers import QuantizedLayer, get_quantized_type
from quant_engine.model.modules import replace_modules
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import LayerInfo, list_layers
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import Calibration, layer_form, require_quantizable
from quant_engine.report import EXCLUDED, QUANTIZED, UNSUPPORTED
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme
from quant_engine.tensors.affine import QParams
from quant_engine.tensors.observers import choose_input_qparams


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """What is done with one layer, and why.

    Attributes:
        layer: The float layer.
        scheme: How it is quantized, as far as it applies to this kind of layer; None if it is not.
        status: "quantized", "excluded" or "unsupported".
        reason: Why it stays float; of a quantized layer, why nothing entered it, or empty.
    """

    layer: LayerInfo
    scheme: LayerScheme | None
    status: str
    reason: str = ""


def plan_layers(
    prepared: PreparedModel, recipe: Recipe, calibration: Calibration | None
) -> tuple[LayerPlan, ...]:
    """Decide for every layer whether and how it is quantized.

    Raises:
        NotCalibratedError: If inputs are to be quantized and there is no calibration.
        DataError: If the calibration is of another model.
        UnsupportedLayerError: If no layer can be quantized.
    """
    layers = list_layers(prepared.model)
    require_quantizable(layers)
    names = {layer.name for layer in layers}
    strange = [name for name in calibration.calls if name not in names] if calibration else []
    if strange:
        raise DataError(
            f"The calibration is of another model: it knows a layer {strange[0]!r}, which this "
            "model does not have. Calibrate this model."
        )
    for layer in layers:
        known = calibration.forms.get(layer.name) if calibration else None
        if known is not None and layer.is_quantizable and known != layer_form(layer):
            raise DataError(
                f"The calibration is of another model: its layer {layer.name!r} is {known}, this "
                f"model's {layer_form(layer)}. Calibrate this model."
            )
    return tuple(_plan(layer, recipe, calibration) for layer in layers)


def _plan(layer: LayerInfo, recipe: Recipe, calibration: Calibration | None) -> LayerPlan:
    if not layer.is_quantizable:
        return LayerPlan(layer, None, UNSUPPORTED, layer.reason)
    scheme = recipe.layer_scheme(layer.name)
    if scheme is None:
        pattern = recipe.excluding_pattern(layer.name)
        return LayerPlan(layer, None, EXCLUDED, f"excluded by the recipe ({pattern!r})")
    scheme = get_quantized_type(layer.module).applicable(scheme)
    if calibration is not None and (reader := calibration.reader(layer.name)):
        reason = f"weight-only, since {reader}: its input stays float"
        return LayerPlan(layer, LayerScheme(scheme.weight), QUANTIZED, reason)
    if not scheme.has_calibrated_input:
        reason = "" if calibration is None else calibration.unseen(layer.name)
        return LayerPlan(layer, scheme, QUANTIZED, reason)
    if calibration is None:
        raise NotCalibratedError(
            f"Layer {layer.name!r} has its input quantized, which needs calibration data. "
            "Give some, or a recipe with activation=None."
        )
    if unseen := calibration.unseen(layer.name):
        reason = f"{unseen}, so the range of its input is unknown"
        return LayerPlan(layer, None, UNSUPPORTED, reason)
    return LayerPlan(layer, scheme, QUANTIZED)


def convert(
    model: nn.Module,
    plans: Sequence[LayerPlan],
    calibration: Calibration | None,
    meter: ProgressMeter,
) -> nn.Module:
    """Replace the planned layers of `model`, in place, and return it.

    Layers that share a weight and are quantized alike go on sharing it; whatever shares a bias
    goes on sharing it.

    Raises:
        QuantizationError: If a layer cannot be quantized; the message names it.
    """
    chosen = [plan for plan in plans if plan.scheme is not None]
    shared: SharedCodes = {}
    originals = {plan.layer.name: model.get_submodule(plan.layer.name) for plan in chosen}
    layers = {}
    for number, plan in enumerate(chosen, start=1):
        name = plan.layer.name
        assert plan.scheme is not None
        layers[name] = quantize_layer(name, originals[name], plan.scheme, calibration, shared)
        meter.step(f"quantize {name} (layer {number} of {len(chosen)})")
    model = replace_modules(model, layers)
    _tie_biases(model, originals)
    return model


SharedCodes: TypeAlias = dict[tuple[int, TensorScheme, int], QuantizedLayer]
"""Weight, scheme and channel axis -> the first layer quantized so."""


def quantize_layer(
    name: str,
    module: nn.Module,
    scheme: LayerScheme,
    calibration: Calibration | None,
    shared: SharedCodes,
) -> QuantizedLayer:
    """Quantize one layer; a weight that was quantized alike before keeps the codes of then.

    Raises:
        QuantizationError: If it cannot be quantized; the message names it.
    """
    kind = get_quantized_type(module)
    try:
        grid = choose_input_grid(name, kind.applicable(scheme).activation, calibration)
        layer = kind.from_float(module, scheme, grid)
    except QuantizationError as error:
        raise type(error)(f"Layer {name!r}: {error}") from error
    first = shared.setdefault((id(module.weight), scheme.weight, kind.channel_axis), layer)
    if first is not layer:
        layer.share_codes(first)
    return layer


def choose_input_grid(
    name: str, activation: TensorScheme | None, calibration: Calibration | None
) -> QParams | None:
    """Return the calibrated grid of a layer's input; None if it is float or dynamic."""
    if activation is None or activation.is_dynamic:
        return None
    assert calibration is not None
    return choose_input_qparams(calibration.histograms[name], activation)


def _tie_biases(model: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Give all that shared a bias with a layer, before it was quantized, the layer's new one."""
    tied: dict[int, nn.Parameter] = {}
    for name, module in originals.items():
        bias, layer = module._parameters.get("bias"), model.get_submodule(name)
        if bias is not None and isinstance(layer, QuantizedLayer) and layer.bias is not None:
            layer.bias = tied.setdefault(id(bias), layer.bias)
    for module in model.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in tied:
                module._parameters[key] = tied[id(parameter)]


def describe_cut_ties(model: nn.Module, plans: Sequence[LayerPlan]) -> list[str]:
    """Say which modules of a float model share a weight that they do not share once quantized.

    Args:
        model: The prepared float model.
        plans: What is done with each layer.
    """
    schemes = {plan.layer.name: plan.scheme for plan in plans}
    holders: dict[int, list[tuple[str, object]]] = {}
    for name, module in model.named_modules():
        scheme = schemes.get(name)
        for key, parameter in module._parameters.items():
            if parameter is not None:
                has_codes = scheme is not None and key == "weight"
                axis = get_quantized_type(module).channel_axis if has_codes else None
                form = (scheme.weight, axis) if scheme is not None and has_codes else None
                full = f"{name}.{key}" if name else key
                holders.setdefault(id(parameter), []).append((full, form))
    notes = []
    for found in holders.values():
        if len({form for _, form in found}) > 1:
            names = " and ".join(name for name, _ in found)
            notes.append(
                f"{names} were one tensor. They are quantized in different ways, so each is stored "
                "on its own, and counted in the size."
            )
    return notes
