"""The forms each layer is tried in: quantized under every option, in weights, inputs or both."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from quant_engine.errors import UnsupportedLayerError, require_choice
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Data, iterate_batches
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import StandIn, names_that_share
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import list_layers
from quant_engine.progress import ProgressMeter
from quant_engine.quantization.calibration import Calibration
from quant_engine.quantization.conversion import (
    LayerPlan,
    SharedCodes,
    choose_input_grid,
    plan_layers,
    quantize_layer,
)
from quant_engine.quantization.size import total_bytes
from quant_engine.remedies import Passes, treat_locally
from quant_engine.remedies.codes import Step
from quant_engine.scheme import (
    BIAS_CORRECTION,
    Candidate,
    LayerScheme,
    Recipe,
    Remedy,
    TensorScheme,
)
from quant_engine.tensors.affine import QParams, choose_dynamic_qparams, fake_quantize
from quant_engine.variants.options import (
    FLOAT_OPTION,
    Options,
    describe_option,
    name_options,
    remedies_of,
)
from quant_engine.variants.runner import Variant

BOTH = "both"
WEIGHTS = "weights"
ACTIVATIONS = "activations"
PARTS = (BOTH, WEIGHTS, ACTIVATIONS)

Configuration: TypeAlias = Mapping[str, str]
"""Layer name -> option name; layers left out stay float."""

RECIPE_OPTION = ""
"""What the recipe's own schemes are called where options are named."""


class _Change(NamedTuple):
    """How weight and input of a layer are rounded, None for what stays float, and remedies."""

    weight: TensorScheme | None
    activation: TensorScheme | None
    remedies: tuple[str, ...] = ()

    @property
    def of_codes(self) -> tuple[str, ...]:
        """The remedies that change codes, which layers with other inputs or biases share."""
        return tuple(kind for kind in self.remedies if kind != BIAS_CORRECTION)


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
        modules: Layer name -> option -> what stands in the layer's place, layers in the order they
            run. Options that do the same to a layer share one module, and layers that share a
            weight share its codes under the same scheme.
        options: All options, in the order given.
        skipped: Layer name -> why it always stays float.
        quantizable: Names of all layers that have a quantized form, skipped or not.
        float_model: The prepared model that they are layers of.
        float_bytes: Bytes of the model as it was given.
        untreated: (layer, option) -> kind of a remedy that the option names -> why the layer is
            not treated by it.
    """

    modules: Mapping[str, Mapping[str, nn.Module]]
    options: tuple[str, ...]
    skipped: Mapping[str, str]
    quantizable: tuple[str, ...]
    float_model: nn.Module
    float_bytes: int
    untreated: Mapping[tuple[str, str], Mapping[str, str]]

    @property
    def quantized(self) -> dict[str, dict[str, QuantizedLayer]]:
        """The modules that hold codes, layer name -> option -> quantized layer."""
        return {
            name: {o: layer for o, layer in forms.items() if isinstance(layer, QuantizedLayer)}
            for name, forms in self.modules.items()
        }

    def names(self, option: str) -> list[str]:
        """Return the layers that an option changes."""
        return [name for name, forms in self.modules.items() if option in forms]

    def describe(self, name: str, option: str) -> str:
        """Return what an option does to a layer, in words: its name, if it has one."""
        module = self.modules[name][option]
        if isinstance(module, InputRounding):
            return option or f"float weights + int{module.scheme.bits} inputs"
        assert isinstance(module, QuantizedLayer)
        return option or describe_option(module.scheme)

    def footprint(self, option: str, names: Collection[str] | None = None) -> Footprint:
        """Return what layers take up under an option, all of them if none are named.

        Tensors that layers share count once.
        """
        chosen = [name for name in self.names(option) if names is None or name in names]
        layers = nn.ModuleList(self.float_model.get_submodule(name) for name in chosen)
        quantized = {
            str(index): module
            for index, name in enumerate(chosen)
            if isinstance(module := self.modules[name][option], QuantizedLayer)
        }
        return Footprint(
            float_bytes=total_bytes(layers),
            quantized_bytes=total_bytes(layers, quantized),
            parameters=sum(parameter.numel() for parameter in layers.parameters()),
        )

    def entries(self) -> Iterator[tuple[str, str]]:
        """Yield every (layer, option), layers in the order they run."""
        for name, forms in self.modules.items():
            yield from ((name, option) for option in forms)

    def uniform(self, option: str, names: Collection[str] | None = None) -> Variant:
        """Return the variant with all layers under one option, or with some of them.

        Of options that do the same to a layer the first one stands there: what does the same is
        the same variant, and is run once.
        """
        return {
            name: next(other for other, module in forms.items() if module is forms[option])
            for name, forms in self.modules.items()
            if option in forms and (names is None or name in names)
        }

    def model_bytes(self, option: str, names: Collection[str]) -> int:
        """Return the bytes of the model with these layers under an option."""
        quantized = self.quantized
        layers = {name: quantized[name][option] for name in names if option in quantized[name]}
        # With nothing quantized, the caller's own model would be kept: BatchNorm and all.
        return total_bytes(self.float_model, layers) if layers else self.float_bytes


def build_forms(
    model: nn.Module,
    prepared: PreparedModel,
    recipe: Recipe,
    options: Options | None,
    calibration: Calibration,
    meter: ProgressMeter,
    *,
    parts: str = BOTH,
    seen_only: bool = False,
    data: Data | Calibration = (),
) -> LayerForms:
    """Quantize every layer that the recipe does not exclude, under every option.

    Args:
        model: The caller's model.
        prepared: Its prepared copy; it is not changed.
        recipe: Which layers; and how, if there are no options.
        options: What to try on each layer; the recipe's own scheme for it if None.
        calibration: Where the ranges of inputs come from; one serves all options.
        meter: Counts every layer.
        parts: "both", "weights" or "activations".
        seen_only: Leave out layers that no calibration data entered. Running such a layer tells
            the truth about it, also where others read its weight; a prediction cannot.
        data: Calibration data, which is read again for options with remedies; they are set as in
            the recipe.

    Raises:
        SchemeError: If parts or options are not allowed.
        UnsupportedLayerError: If nothing is quantized under one of the options.
        QuantizationError: If a layer cannot be quantized; the message names it.
    """
    require_choice("parts", parts, PARTS)
    named = None if options is None else name_options(options)
    recipes = _recipes(recipe, named, parts)
    plans: dict[str, dict[str, LayerPlan]] = {}
    for option, wanted in recipes.items():
        for plan in plan_layers(prepared, wanted, calibration):
            plans.setdefault(plan.layer.name, {})[option] = plan
    skipped: dict[str, str] = {}
    changes: dict[str, dict[str, _Change]] = {}
    for name, by_option in plans.items():
        reason = _why_skipped(by_option, calibration.unseen(name) if seen_only else "")
        if reason is None:
            changes[name] = _changes(by_option, named or {}, parts)
        else:
            skipped[name] = reason
    for option in recipes:
        if not any(option in by_option for by_option in changes.values()):
            raise UnsupportedLayerError(_nothing(option, parts))
    order = {name: index for index, name in enumerate(calibration.calls)}
    names = sorted(filter(changes.get, changes), key=lambda n: order.get(n, len(order)))
    shared: dict[tuple[str, ...], SharedCodes] = {}
    forms: dict[str, dict[_Change, nn.Module]] = {}
    for number, name in enumerate(names, start=1):
        layer = prepared.model.get_submodule(name)
        forms[name] = {}
        for change in dict.fromkeys(changes[name].values()):
            codes = shared.setdefault(change.of_codes, {})
            forms[name][change] = _changed(name, layer, change, calibration, codes)
        meter.step(f"quantize {name} in every way (layer {number} of {len(names)})")
    remedies = remedies_of(recipe, named or {})
    refused = _treat(prepared, forms, remedies, data, meter) if remedies else {}
    entries = {(name, o): change for name in names for o, change in changes[name].items()}
    return LayerForms(
        modules={name: {o: forms[name][c] for o, c in changes[name].items()} for name in names},
        options=tuple(recipes),
        skipped=skipped,
        quantizable=tuple(x.name for x in list_layers(prepared.model) if x.is_quantizable),
        float_model=prepared.model,
        float_bytes=total_bytes(model),
        untreated={
            (name, option): refused[name, change]
            for (name, option), change in entries.items()
            if (name, change) in refused
        },
    )


def _treat(
    prepared: PreparedModel,
    forms: Mapping[str, dict[_Change, nn.Module]],
    remedies: Mapping[str, Remedy],
    data: Data | Calibration,
    meter: ProgressMeter,
) -> dict[tuple[str, _Change], dict[str, str]]:
    """Apply remedies to the forms whose changes name them, in place.

    Returns:
        (layer, change) -> kind -> why it is not; the form without it stands there then.
    """
    assert not isinstance(data, Calibration)
    steps = {
        name: found for name, by_change in forms.items() if (found := _steps(by_change, remedies))
    }
    done = treat_locally(
        Passes(prepared, list(iterate_batches(data))),
        {name: list(found.values()) for name, found in steps.items()},
        names_that_share({name: prepared.model.get_submodule(name).weight for name in forms}),
        meter,
    )
    refused = {
        part: treatment.reason
        for name, found in steps.items()
        for part, treatment in zip(found, done[name], strict=True)
        if not treatment.is_applied
    }
    reasons: dict[tuple[str, _Change], dict[str, str]] = {}
    for name, by_change in forms.items():
        for change, form in by_change.items():
            parts = {kind: _treated_part(form, kind) for kind in change.remedies}
            why = {kind: refused[part] for kind, part in parts.items() if part in refused}
            if why:
                reasons[name, change] = why
                others = tuple(kind for kind in change.remedies if kind not in why)
                by_change[change] = by_change.get(change._replace(remedies=others), form)
    return reasons


def _steps(
    by_change: Mapping[_Change, nn.Module], remedies: Mapping[str, Remedy]
) -> dict[tuple[str, nn.Module], Step]:
    """Return what to do to the forms of a layer, by what it changes: each part is treated once."""
    return {
        _treated_part(form, kind): (form, remedy)
        for kind, remedy in remedies.items()
        for change, form in by_change.items()
        if kind in change.remedies and isinstance(form, QuantizedLayer)
    }


def _treated_part(form: nn.Module, kind: str) -> tuple[str, nn.Module]:
    """Return a remedy and what it changes: codes, which forms may share, or one form's bias."""
    assert isinstance(form, QuantizedLayer)
    assert form.stored_weight is not None
    return kind, form if kind == BIAS_CORRECTION else form.stored_weight


def _recipes(
    recipe: Recipe, options: Mapping[str, Candidate] | None, parts: str
) -> dict[str, Recipe]:
    """Return option -> the recipe that quantizes as it says."""
    if parts == WEIGHTS:
        overrides = {name: LayerScheme(s.weight) for name, s in recipe.overrides.items()}
        recipe = replace(recipe, activation=None, overrides=overrides)
    if options is None:
        return {RECIPE_OPTION: recipe}
    return {
        name: replace(
            recipe,
            weight=candidate.scheme.weight,
            activation=None if parts == WEIGHTS else candidate.scheme.activation,
            overrides={},
        )
        for name, candidate in options.items()
    }


def _why_skipped(plans: Mapping[str, LayerPlan], unseen: str) -> str | None:
    """Return why a layer stays float under every option; None if it does not."""
    reasons = [plan.reason for plan in plans.values() if plan.scheme is None]
    if unseen or len(reasons) == len(plans):
        return (*reasons, f"{unseen}, so nothing can be said about it")[0]
    return None


def _changes(
    plans: Mapping[str, LayerPlan], options: Mapping[str, Candidate], parts: str
) -> dict[str, _Change]:
    """Return option -> what it does to a layer; those that do nothing are left out."""
    found = {}
    for option, plan in plans.items():
        if plan.scheme is None:
            continue
        weight, activation = plan.scheme.weight, plan.scheme.activation
        if parts != ACTIVATIONS:
            remedies = options[option].remedies if options else ()
            found[option] = _Change(weight, activation, remedies)
        elif activation is not None:
            found[option] = _Change(None, activation)
    return found


def _changed(
    name: str, layer: nn.Module, change: _Change, calibration: Calibration, shared: SharedCodes
) -> nn.Module:
    weight, activation, _ = change
    if weight is not None:
        return quantize_layer(name, layer, LayerScheme(weight, activation), calibration, shared)
    assert activation is not None
    qparams = choose_input_grid(name, activation, calibration)
    return InputRounding(share_tensors(layer), activation, qparams)


def _nothing(option: str, parts: str) -> str:
    if parts == ACTIVATIONS:
        where = f"Option {option!r}" if option else "The recipe"
        return (
            f"{where} rounds the input of no layer of this model. Give it an activation scheme, "
            "or measure parts='weights'."
        )
    return "The recipe quantizes no layer of this model. Exclude fewer."


def as_variant(configuration: Configuration) -> Variant:
    """Return a configuration without the layers that it leaves in float."""
    return {name: option for name, option in configuration.items() if option != FLOAT_OPTION}
