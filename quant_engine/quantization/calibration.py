"""Measuring the range of every layer's input, in one pass over the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from quant_engine.errors import DataError, SchemeError, UnsupportedLayerError
from quant_engine.layers import list_quantizable_types
from quant_engine.model.batches import Batch, Data, count_batches, iterate_batches
from quant_engine.model.forward import layer_input, run_model, watched_layers
from quant_engine.preparation.batchnorm import Folding
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.preparation.selection import LayerInfo, list_layers
from quant_engine.preparation.standard_layers import FUNCTIONAL, StandardLayer, standard_layers
from quant_engine.preparation.weight_readers import find_readers
from quant_engine.progress import Progress, ProgressMeter
from quant_engine.scheme import Recipe
from quant_engine.tensors.histogram import Histogram


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was seen on the way through the model; enough to choose every range by any rule.

    It does not depend on which layers a recipe quantizes, or how: one calibration serves all
    recipes for the same model and data.

    Attributes:
        histograms: Layer name -> all values of its input.
        calls: Layer name -> number of times it ran in one forward pass, in the order of first
            runs; layers that cannot be quantized are here too.
        samples: Samples seen.
        batches: Batches seen.
        folded: The BatchNorms that were folded for this data.
        forms: Layer name -> its type and arguments, of layers that can be quantized.
        functional: The modules whose parameters became layers of their own.
        readers: Name of a layer that never ran -> what reads its weight instead, in words.
    """

    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    samples: int = 0
    batches: int = 0
    folded: tuple[Folding, ...] = ()
    forms: Mapping[str, str] = field(default_factory=dict)
    readers: Mapping[str, str] = field(default_factory=dict)
    functional: tuple[StandardLayer, ...] = ()

    def reader(self, name: str) -> str:
        """Say what reads the weight of a layer that never ran; "" if it ran, or nothing does."""
        return "" if name in self.calls else self.readers.get(name, "")

    def unseen(self, name: str) -> str:
        """Say why nothing is known of a layer, such as an expert that no row was sent to.

        Returns:
            "it never ran on the calibration data", "it ran but saw no rows of the calibration
            data", "its weight is read by `F.linear` in `layers.0.attn`", or "" if values entered
            it.
        """
        if name not in self.calls:
            return self.readers.get(name, "it never ran on the calibration data")
        histogram = self.histograms.get(name)
        if histogram is not None and not histogram.count:
            return "it ran but saw no rows of the calibration data"
        return ""


def calibrate(
    model: nn.Module,
    batches: Data,
    recipe: Recipe | None = None,
    *,
    progress: Progress | None = None,
) -> Calibration:
    """Run the float model over the data and count every value that enters a quantizable layer.

    Memory does not grow with the number of batches: each layer keeps one histogram.

    Args:
        model: The float model; it is not changed.
        batches: A tensor or an iterable of batches, read once.
        recipe: What the ranges are for; it changes none of them.
        progress: Called after every batch; may raise to cancel.

    Returns:
        The histograms.

    Raises:
        DataError: If the data is empty, malformed, or holds NaN or Inf, or a layer's input does.
        ModelForwardError: If the model raises.
        UnsupportedLayerError: If nothing in the model can be quantized.
        SchemeError: If `recipe` is no Recipe.
    """
    recipe_or_default(recipe)
    meter = ProgressMeter(progress, count_batches(batches) or 0)
    prepared, batches, _ = prepare_for(model, batches)
    return calibrate_prepared(prepared, batches, meter)


def recipe_or_default(recipe: Recipe | None) -> Recipe:
    """Return the recipe, or the default one for None.

    Raises:
        SchemeError: If it is something else.
    """
    if recipe is None:
        return Recipe.default()
    if not isinstance(recipe, Recipe):
        raise SchemeError(
            f"recipe is {recipe!r}. Give a Recipe: one of PRESETS, Recipe.from_dict(...) of "
            "settings, or None for the default."
        )
    return recipe


def require_quantizable(layers: Sequence[LayerInfo]) -> None:
    """Check that there is a layer to quantize, and that all layers have got their weights.

    Raises:
        UnsupportedLayerError: If there is none, or one is lazy and would get random weights.
    """
    for layer in layers:
        if any(isinstance(p, UninitializedParameter) for p in layer.module.parameters()):
            raise UnsupportedLayerError(
                f"Layer {layer.name!r} is a {layer.kind} without weights. Run the model once on "
                "data, so that it gets them, then try again."
            )
    if not any(layer.is_quantizable for layer in layers):
        found = "; ".join(f"{layer.name or 'the model'}: {layer.reason}" for layer in layers[:3])
        kinds = ", ".join(kind.__name__ for kind in list_quantizable_types())
        raise UnsupportedLayerError(
            f"No layer of this model can be quantized. {found or 'It holds no weights.'} "
            f"Types that can: {kinds}."
        )


def calibrate_prepared(prepared: PreparedModel, batches: Data, meter: ProgressMeter) -> Calibration:
    """Calibrate a model that is already prepared, and leave it in its state; see `calibrate`."""
    listed = list_layers(prepared.model)
    require_quantizable(listed)
    layers = {layer.name: layer.module for layer in listed}
    quantizable = {layer.name for layer in listed if layer.is_quantizable}
    histograms: dict[str, Histogram] = {}
    calls: Counter[str] = Counter()
    samples = count = 0
    batch: Batch
    first: Batch | None = None

    def observe(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: Any) -> None:
        calls[name] += 1
        x = layer_input(args, kwargs)
        if name not in quantizable or x is None or not x.is_floating_point():
            return
        try:
            histograms.setdefault(name, Histogram()).update(x)
        except DataError:
            bad = int((~torch.isfinite(x.float())).sum())
            beyond = ", or values beyond float32," if torch.isfinite(x).all() else ""
            raise DataError(
                f"The input of layer {name!r} holds {bad} NaN or Inf{beyond} among {x.numel()} "
                f"values on {batch.where}. Check the weights of the layers before it and the data."
            ) from None

    with watched_layers(layers, observe):
        for batch in iterate_batches(batches):
            run_model(prepared.model, batch)
            first = first or batch
            samples += batch.samples
            count += 1
            meter.step(f"measure value ranges: batch {count}")
    prepared.state.write(prepared.model)
    per_pass = {name: round(total / count) for name, total in calls.items()}
    forms = {layer.name: layer_form(layer) for layer in listed if layer.is_quantizable}
    idle = [name for name in sorted(quantizable) if name not in calls]
    readers = find_readers(prepared, first, idle)
    functional = tuple(x for x in standard_layers(prepared.model) if x.form == FUNCTIONAL)
    return Calibration(
        histograms, per_pass, samples, count, prepared.folded, forms, readers, functional
    )


def layer_form(layer: LayerInfo) -> str:
    """Return a layer's type and arguments, such as widths and strides, as torch prints them."""
    return f"{layer.kind}({layer.module.extra_repr()})"
