"""Every layer under every option, and running a model with any choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from quant_engine.batches import Batch
from quant_engine.calibration import Calibration
from quant_engine.conversion import plan_layers
from quant_engine.errors import QuantizationError, UnsupportedLayerError
from quant_engine.layers import QuantizedLayer, get_quantized_type
from quant_engine.modules import replace_module
from quant_engine.observers import choose_input_qparams
from quant_engine.options import FLOAT_OPTION
from quant_engine.preparation import PreparedModel
from quant_engine.progress import ProgressMeter
from quant_engine.replay import Replay
from quant_engine.scheme import LayerScheme, Recipe
from quant_engine.sweep import share_tensors

Configuration: TypeAlias = Mapping[str, str]
"""Layer name -> option name; layers left out stay float."""

NEVER_RAN = "never ran on the calibration data, so nothing can be said about it"


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
        elif name not in calibration.calls:
            skipped[name] = NEVER_RAN
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
        meter.step(f"layer {number}/{len(names)} {name} - quantize under every option")
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


class ConfigurationRunner:
    """Runs a model under any configuration; nothing of the float model is changed."""

    def __init__(
        self, float_model: nn.Module, forms: Mapping[str, Mapping[str, QuantizedLayer]]
    ) -> None:
        """Put a choice between float and quantized forms in the place of every layer."""
        self._names = tuple(forms)
        model = share_tensors(float_model)
        for name, layers in forms.items():
            choice = _Choice(model.get_submodule(name), layers)
            model = replace_module(model, name, choice)
        self._model = model

    def run(
        self,
        batch: Batch,
        configurations: Iterable[Configuration],
        on_run: Callable[[Tensor, Tensor], None],
    ) -> str:
        """Run every configuration on a batch, replaying what no choice in it can have changed.

        Args:
            batch: The batch.
            configurations: What to run, in this order.
            on_run: Called after each run with the float output and the output of this run.

        Returns:
            Why nothing could be replayed; empty if it was.

        Raises:
            ModelForwardError: If the model raises.
            DataError: If the output holds NaN or Inf, or no float tensor.
        """
        model = share_tensors(self._model)
        choices = {name: _find_choice(model, name) for name in self._names}
        replay = Replay(model)
        with torch.random.fork_rng(devices=[]):
            _choose(choices, {})
            expected = replay.record(batch)
            replay.verify(batch, expected)
            for configuration in configurations:
                changed = [choices[name] for name in quantized_in(configuration)]
                _choose(choices, configuration)
                on_run(expected, replay.run(batch, replay.first_call(changed)))
        return replay.reason


def quantized_in(configuration: Configuration) -> list[str]:
    """Return the names of the layers that a configuration does not leave in float."""
    return [name for name, option in configuration.items() if option != FLOAT_OPTION]


class _Choice(nn.Module):
    """Stands where a layer was and answers as its float or one of its quantized forms."""

    def __init__(self, float_layer: nn.Module, forms: Mapping[str, QuantizedLayer]) -> None:
        super().__init__()
        self.float_layer = float_layer
        self.forms = nn.ModuleList(forms.values())
        self.places = {option: place for place, option in enumerate(forms)}
        self.option = FLOAT_OPTION

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.option == FLOAT_OPTION:
            return self.float_layer(*args, **kwargs)
        return self.forms[self.places[self.option]](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Answer for the layer, such as its sizes or its weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["float_layer"], name)


def _find_choice(model: nn.Module, name: str) -> _Choice:
    choice = model.get_submodule(name)
    assert isinstance(choice, _Choice)
    return choice


def _choose(choices: Mapping[str, _Choice], configuration: Configuration) -> None:
    for name, choice in choices.items():
        choice.option = configuration.get(name, FLOAT_OPTION)
