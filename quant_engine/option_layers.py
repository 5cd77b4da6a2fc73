"""Every layer under every option, to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from quant_engine.calibration import Calibration
from quant_engine.conversion import plan_layers
from quant_engine.errors import QuantizationError, UnsupportedLayerError
from quant_engine.layers import QuantizedLayer, get_quantized_type
from quant_engine.observers import choose_input_qparams
from quant_engine.options import FLOAT_OPTION
from quant_engine.preparation import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.scheme import LayerScheme, Recipe
from quant_engine.sweep import Variant

Configuration: TypeAlias = Mapping[str, str]
"""Layer name -> option name; layers left out stay float."""


@dataclass(frozen=True, slots=True, eq=False)
class OptionLayers:
    """The quantized forms of a model's layers.

    Attributes:
        forms: Layer name -> option name -> quantized layer, layers in the order they run.
        skipped: Layer name -> why it always stays float.
        quantizable: Names of all layers that have a quantized form, skipped or not.
    """

    forms: Mapping[str, Mapping[str, QuantizedLayer]]
    skipped: Mapping[str, str]
    quantizable: tuple[str, ...]


def build_option_layers(
    prepared: PreparedModel,
    options: Mapping[str, LayerScheme],
    calibration: Calibration,
    recipe: Recipe,
    meter: ProgressMeter,
) -> OptionLayers:
    """Quantize every layer that the recipe does not exclude under every option.

    Layers that share a weight share its codes under the same scheme.

    Args:
        prepared: The float model; it is not changed.
        options: Option name -> scheme.
        calibration: Ranges of the layers' inputs.
        recipe: Says which layers are excluded; its schemes are not used.
        meter: Told after every layer.

    Raises:
        UnsupportedLayerError: If no layer is left.
        QuantizationError: If a layer cannot be quantized; the message names it.
    """
    skipped: dict[str, str] = {}
    names = []
    plans = plan_layers(prepared, recipe, calibration)
    for plan in plans:
        name = plan.layer.name
        if plan.scheme is None:
            skipped[name] = plan.reason
        elif unseen := calibration.unseen(name):
            skipped[name] = f"{unseen}, so nothing can be said about it"
        else:
            names.append(name)
    if not names:
        raise UnsupportedLayerError("The recipe leaves no layer to choose for. Exclude fewer.")
    order = {name: place for place, name in enumerate(calibration.calls)}
    forms: dict[str, dict[str, QuantizedLayer]] = {}
    shared: dict[object, QuantizedLayer] = {}
    for number, name in enumerate(sorted(names, key=lambda n: order[n]), start=1):
        module = prepared.model.get_submodule(name)
        try:
            forms[name] = {
                option: _quantized(module, name, scheme, calibration, shared)
                for option, scheme in options.items()
            }
        except QuantizationError as error:
            raise type(error)(f"Layer {name!r}: {error}") from error
        meter.step(f"quantize {name} in every way (layer {number} of {len(names)})")
    quantizable = tuple(plan.layer.name for plan in plans if plan.layer.is_quantizable)
    return OptionLayers(forms, skipped, quantizable)


def _quantized(
    module: nn.Module,
    name: str,
    scheme: LayerScheme,
    calibration: Calibration,
    shared: dict[object, QuantizedLayer],
) -> QuantizedLayer:
    kind = get_quantized_type(module)
    qparams = None
    if scheme.activation is not None and kind.takes_float_input:
        qparams = choose_input_qparams(calibration.histograms[name], scheme.activation)
    layer = kind.from_float(module, scheme, qparams)
    key = (id(module.weight), scheme.weight, layer.channel_axis)
    if key in shared:
        layer.share_codes(shared[key])
    else:
        shared[key] = layer
    return layer


def as_variant(configuration: Configuration) -> Variant:
    """Return a configuration without the layers that it leaves in float."""
    return {name: option for name, option in configuration.items() if option != FLOAT_OPTION}
