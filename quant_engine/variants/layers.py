"""The forms each layer is tried in: quantized under every option, in weights, inputs or both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from quant_engine.errors import QuantizationError, UnsupportedLayerError, require_choice
from quant_engine.layers import QuantizedLayer, get_quantized_type
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import StandIn
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.conversion import LayerPlan, convert, plan_layers
from quant_engine.quantization.size import mixed_bytes, total_bytes
from quant_engine.scheme import LayerScheme, Recipe, TensorScheme
from quant_engine.tensors.affine import QParams, choose_dynamic_qparams, fake_quantize
from quant_engine.tensors.observers import choose_input_qparams
from quant_engine.variants.options import FLOAT_OPTION, Options, describe_option, name_options
from quant_engine.variants.runner import Variant

BOTH = "both"
WEIGHTS = "weights"
ACTIVATIONS = "activations"
PARTS = (BOTH, WEIGHTS, ACTIVATIONS)

RECIPE_OPTION = ""
"""What the recipe's own schemes are called where options are named."""


class InputRounding(StandIn):
    """A float layer that rounds its input to a grid first."""

    def __init__(self, layer: nn.Module, scheme: TensorScheme, qparams: QParams | None) -> None:
        """Put the rounding before the layer; with a dynamic range there is no grid yet."""
        super().__init__()
        self.layer = layer
        self.scheme = scheme
        self.qparams = qparams

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the layer on the values that the input's codes stand for."""
        qparams = self.qparams or choose_dynamic_qparams(input, self.scheme)
        return self.layer(fake_quantize(input, qparams).to(input.dtype), *args, **kwargs)


@dataclass(frozen=True, slots=True, eq=False)
class LayerForm:
    """One layer under one option.

    Attributes:
        text: What was done to it, in words.
        form: Name of the form; options that do the same to the layer share one.
        module: What stands in the layer's place.
    """

    text: str
    form: str
    module: nn.Module


@dataclass(frozen=True, slots=True)
class Footprint:
    """What layers take up.

    Attributes:
        float_bytes: Bytes in float.
        quantized_bytes: Bytes under an option.
        parameters: Weights and biases.
    """

    float_bytes: int
    quantized_bytes: int
    parameters: int


@dataclass(frozen=True, slots=True, eq=False)
class LayerForms:
    """Every layer under every option.

    Attributes:
        by_option: Option -> layer name -> the layer under it, layers in the order they run.
        names: All those layers, in the order they run.
        float_model: The prepared model that they are layers of.
        float_bytes: Bytes of the model as it was given.
    """

    by_option: Mapping[str, Mapping[str, LayerForm]]
    names: tuple[str, ...]
    float_model: nn.Module
    float_bytes: int

    @property
    def modules(self) -> dict[str, dict[str, nn.Module]]:
        """Layer name -> form -> what stands in the layer's place."""
        found: dict[str, dict[str, nn.Module]] = {name: {} for name in self.names}
        for layers in self.by_option.values():
            for name, layer in layers.items():
                found[name].setdefault(layer.form, layer.module)
        return found

    def footprint(self, option: str, names: Collection[str] | None = None) -> Footprint:
        """Return what layers take up under an option, all of them if none are named.

        Tensors that layers share count once.
        """
        found = self.by_option[option]
        chosen = [name for name in found if names is None or name in names]
        layers = nn.ModuleList(self.float_model.get_submodule(name) for name in chosen)
        quantized = {
            str(place): module
            for place, name in enumerate(chosen)
            if isinstance(module := found[name].module, QuantizedLayer)
        }
        return Footprint(
            float_bytes=total_bytes(layers),
            quantized_bytes=mixed_bytes(layers, quantized, quantized),
            parameters=sum(parameter.numel() for parameter in layers.parameters()),
        )

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield every (layer, option), layers in the order they run."""
        for name in self.names:
            yield from ((name, option) for option, found in self.by_option.items() if name in found)

    def alone(self, name: str, option: str) -> Variant:
        """Return the variant with only this layer changed."""
        return {name: self.by_option[option][name].form}

    def uniform(self, option: str, names: Collection[str] | None = None) -> Variant:
        """Return the variant with all layers under one option, or with some of them."""
        chosen = self.by_option[option].items()
        return {name: layer.form for name, layer in chosen if names is None or name in names}

    def model_bytes(self, option: str, names: Collection[str]) -> int:
        """Return the bytes of the model with these layers under an option."""
        layers = {
            name: layer.module
            for name, layer in self.by_option[option].items()
            if isinstance(layer.module, QuantizedLayer)
        }
        chosen = [name for name in names if name in layers]
        # With nothing quantized, the caller's own model would be kept: BatchNorm and all.
        return mixed_bytes(self.float_model, layers, chosen) if chosen else self.float_bytes


def build_forms(
    model: nn.Module,
    prepared: PreparedModel,
    recipe: Recipe,
    options: Options | None,
    parts: str,
    calibration: Calibration,
    meter: ProgressMeter,
) -> LayerForms:
    """Quantize every layer that the recipe quantizes, under every option.

    Args:
        model: The caller's model.
        prepared: Its prepared copy.
        recipe: Which layers; and how, if there are no options.
        options: What to try on each layer; the recipe's own scheme for it if None.
        parts: "both", "weights" or "activations".
        calibration: Where the ranges of inputs come from; one serves all options.
        meter: Where to report progress.

    Raises:
        SchemeError: If parts or options are not allowed.
        UnsupportedLayerError: If nothing is quantized under one of the options.
    """
    require_choice("parts", parts, PARTS)
    recipes = {RECIPE_OPTION: recipe}
    if options is not None:
        recipes = {
            name: replace(recipe, weight=scheme.weight, activation=scheme.activation, overrides={})
            for name, scheme in name_options(options).items()
        }
    order = {name: place for place, name in enumerate(calibration.calls)}
    seen: dict[tuple[str, LayerScheme], LayerForm] = {}
    by_option: dict[str, dict[str, LayerForm]] = {}
    for option, wanted in recipes.items():
        found = _forms_of(prepared, wanted, option, parts, calibration, meter)
        if not found:
            raise UnsupportedLayerError(_nothing(option, parts))
        by_option[option] = {}
        for name in sorted(found, key=lambda n: order.get(n, len(order))):
            scheme, layer = found[name]
            known = seen.setdefault((name, scheme), layer)
            by_option[option][name] = replace(known, text=layer.text)
    names = sorted(
        {n for found in by_option.values() for n in found}, key=lambda n: order.get(n, len(order))
    )
    return LayerForms(by_option, tuple(names), prepared.model, total_bytes(model))


def _forms_of(
    prepared: PreparedModel,
    recipe: Recipe,
    option: str,
    parts: str,
    calibration: Calibration,
    meter: ProgressMeter,
) -> dict[str, tuple[LayerScheme, LayerForm]]:
    """Return name -> (what really changes, the form) of every layer that changes."""
    if parts == WEIGHTS:
        overrides = {name: LayerScheme(s.weight) for name, s in recipe.overrides.items()}
        recipe = replace(recipe, activation=None, overrides=overrides)
    plans = plan_layers(prepared, recipe, calibration)
    chosen = [plan for plan in plans if plan.scheme is not None]
    changed: dict[str, tuple[LayerScheme, nn.Module]] = {}
    if parts == ACTIVATIONS:
        changed = {
            # What happens to the weight makes no difference here.
            plan.layer.name: (LayerScheme(TensorScheme(), plan.scheme.activation), rounding)
            for plan in chosen
            if plan.scheme is not None
            and (rounding := _rounding(prepared.model, plan, calibration)) is not None
        }
    else:
        quantized = convert(share_tensors(prepared.model), plans, calibration, meter)
        for plan in chosen:
            layer = quantized.get_submodule(plan.layer.name)
            assert isinstance(layer, QuantizedLayer)
            changed[plan.layer.name] = (layer.scheme, layer)
    found = {}
    for name, (scheme, module) in changed.items():
        text = option or (describe_option(scheme) if parts != ACTIVATIONS else _inputs_text(scheme))
        found[name] = (scheme, LayerForm(text, option, module))
    return found


def _rounding(model: nn.Module, plan: LayerPlan, calibration: Calibration) -> InputRounding | None:
    assert plan.scheme is not None
    module, scheme = model.get_submodule(plan.layer.name), plan.scheme.activation
    if scheme is None or not get_quantized_type(module).takes_float_input:
        return None
    qparams = None
    if not scheme.is_dynamic:
        qparams = choose_input_qparams(calibration.histograms[plan.layer.name], scheme)
    return InputRounding(share_tensors(module), scheme, qparams)


def _inputs_text(scheme: LayerScheme) -> str:
    assert scheme.activation is not None
    return f"float weights + int{scheme.activation.bits} inputs"


def _nothing(option: str, parts: str) -> str:
    if parts == ACTIVATIONS:
        where = f"Option {option!r}" if option else "The recipe"
        return (
            f"{where} rounds the input of no layer of this model. Give it an activation scheme, "
            "or measure parts='weights'."
        )
    return "The recipe quantizes no layer of this model. Exclude fewer."


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
