"""Factors that move from a tensor into the layers that read it, for one remedy or another.

    y = (X diag(s)⁻¹) (diag(s) W)

The division is folded into what computes the channels: the weights of a normalization, of a linear
layer or of a convolution. All layers that read a tensor share its s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, fx, nn

from quant_engine.graph.layer_calls import LAYERS, LayerCalls
from quant_engine.graph.nodes import attribute_of, module_path, source_of
from quant_engine.layers import QuantizedLayer, get_quantized_type, is_quantizable
from quant_engine.remedies.chains import (
    NotFollowedError,
    Reading,
    follow,
    name_operation,
    output_channels,
    passes_factors,
    shape_of,
)
from quant_engine.remedies.channels import Layer, gathered, layer_of, spread
from quant_engine.remedies.passes import Passes
from quant_engine.report import Treatment
from quant_engine.scheme import LayerScheme, Recipe, Remedy
from quant_engine.tensors.histogram import Histogram
from quant_engine.tensors.observers import choose_input_qparams

MOST_SAMPLES = 32
"""Samples of the first batch on which output errors are compared."""

aten = torch.ops.aten
_NORMALIZATIONS = (aten.layer_norm.default, aten.rms_norm.default)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What computes the channels of a tensor, and can divide them.

    Attributes:
        name: Name of the module that holds the weights.
        layer: The layer; None for a vector that multiplies the channels, of a normalization.
        module: Holds the vector, and perhaps another one that is added.
        keys: Names of these vectors in the module.
    """

    name: str
    layer: Layer | None
    module: nn.Module
    keys: tuple[str, ...] = ()

    def divide(self, factors: Tensor) -> None:
        """Divide every channel by its factor, in place."""
        if self.layer is not None:
            weight, bias = self.layer.weight, self.layer.bias
            self.layer.divide_outputs(weight, factors)
            self.layer.assign(weight, None if bias is None else bias / factors)
            return
        for key in self.keys:
            old = self.module._parameters[key]
            assert old is not None
            new = (old.detach().double() / factors).to(old.dtype)
            setattr(self.module, key, nn.Parameter(new, old.requires_grad))


@dataclass(slots=True, eq=False)
class Seen:
    """What entered a reader: magnitudes of each input channel, and the first samples.

    Attributes:
        largest: Largest magnitude of each input channel.
        total: Their sum over all data.
        count: Values of each channel.
        first: The first samples; None where nothing entered.
    """

    largest: Tensor = field(default_factory=lambda: torch.zeros(()).double())
    total: Tensor = field(default_factory=lambda: torch.zeros(()).double())
    count: int = 0
    first: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Mean magnitude of each input channel."""
        return self.total / max(self.count, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer that reads the channels.

    Attributes:
        layer: The layer.
        times: Input channels of the layer for each of the channels.
        axis: Axis of its input that they lie on, from the end.
        scheme: How it will be quantized; None if it stays float.
        seen: What entered it; nothing before the data was passed.
    """

    layer: Layer
    times: int
    axis: int
    scheme: LayerScheme | None
    seen: Seen = field(default_factory=Seen)

    def reach(self) -> Tensor:
        """Return the largest weight that reads each channel, (channels,)."""
        return gathered(self.layer.input_reach(self.layer.weight), self.times)

    def multiplied_weight(self, factors: Tensor) -> Tensor:
        """Return the weight with each channel's column multiplied by its factor, float64."""
        weight = self.layer.weight
        self.layer.multiply_inputs(weight, spread(factors, self.times))
        return weight


Readers: TypeAlias = Sequence[Reader]
Tried: TypeAlias = list[tuple[Tensor, float]]
"""Factors of each channel, and the α that they come from."""

ChooseFactors: TypeAlias = Callable[[Readers, Readers], Tried]
"""(readers, judged ones of them) -> what is tried."""


def find_groups(
    calls: LayerCalls, graph: fx.GraphModule, remedy: Remedy, recipe: Recipe
) -> tuple[list[tuple[Source, list[Reader]]], list[Treatment]]:
    """Find the tensors that layers read and that can be divided, and say why others cannot."""
    groups: list[tuple[Source, list[Reader]]] = []
    refused: list[Treatment] = []
    known: set[fx.Node] = set()
    places = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        if node.target not in LAYERS or not remedy.treats(module_path(node)) or node in known:
            continue
        names = [module_path(node)]
        try:
            origin = source_of(node)
            while passes_factors(origin):
                origin = source_of(origin)
            source = _source(calls, origin, recipe)
            try:
                readings = follow(origin, output_channels(origin))
            except NotFollowedError as error:
                raise NotFollowedError(f"its input comes from {source.name!r}: {error}") from error
            readings.sort(key=lambda reading: places[reading.node])
            known.update(reading.node for reading in readings)
            names = list(dict.fromkeys(module_path(reading.node) for reading in readings))
            others = [name for name in names if not remedy.treats(name)]
            if others:
                raise NotFollowedError(f"{others[0]!r} reads the same tensor and is not treated")
            readers = [_reader(calls, reading, recipe) for reading in readings]
            groups.append((source, readers))
        except NotFollowedError as error:
            refused.append(Treatment.refused(remedy, *names, reason=str(error)))
    return groups, list(dict.fromkeys(refused))


def _source(calls: LayerCalls, node: fx.Node, recipe: Recipe) -> Source:
    """Return what a division of the channels is folded into.

    Raises:
        NotFollowedError: If there is nothing.
    """
    if node.target in LAYERS:
        layer = layer_of(calls, node)
        scheme = recipe.layer_scheme(layer.name)
        if scheme is not None and scheme.weight.has_one_scale:
            raise NotFollowedError(
                f"the division would be folded into {layer.name!r}, whose weights have one scale; "
                "equalize the two layers instead"
            )
        return Source(layer.name, layer, layer.module)
    given: dict[str, object] = {}
    if node.target in _NORMALIZATIONS and len(node.args[1]) == 1:  # type: ignore[arg-type]
        given = dict(zip(("weight", "bias"), node.args[2:4], strict=False))
        if node.target is aten.rms_norm.default:
            given.pop("bias", None)
    elif node.target in (aten.mul.Tensor, aten.mul_.Tensor):
        vector = next((n for n in map(attribute_of, node.args) if n is not None), None)
        factor = next((a for a in node.args if attribute_of(a) is not None), None)
        width = tuple(node.meta["val"].shape[-1:])
        if vector is not None and isinstance(factor, fx.Node) and shape_of(factor) == width:
            given = {vector.rpartition(".")[2]: factor}
    name = module_path(node)
    module = calls.module(name)
    given = {key: value for key, value in given.items() if value is not None}
    if module is None or not given or not calls.reads_own(name, given):
        raise NotFollowedError(
            f"its input comes from {name_operation(node)}, which a division cannot be folded into"
        )
    if not calls.is_plain(name):
        raise NotFollowedError(f"{name!r} has hooks or a forward of its own")
    return Source(name, None, module, tuple(given))


def _reader(calls: LayerCalls, reading: Reading, recipe: Recipe) -> Reader:
    layer = layer_of(calls, reading.node)
    if not is_quantizable(layer.module):
        kind = type(layer.module).__name__
        raise NotFollowedError(f"{layer.name!r} is a {kind}, which has no quantized form")
    axis = reading.axis - source_of(reading.node).meta["val"].dim()
    return Reader(layer, reading.spread, axis, recipe.layer_scheme(layer.name))


def move_factors(
    passes: Passes,
    graph: fx.GraphModule,
    remedy: Remedy,
    recipe: Recipe,
    choose: ChooseFactors,
    *,
    is_judged: Callable[[Reader], bool],
    unjudged: str,
    is_forced: bool = False,
) -> list[Treatment]:
    """Move factors from the tensors that layers read into these layers, in place.

    Args:
        passes: Over the data on which inputs and errors are measured, of the model.
        graph: What it computes, captured from it.
        remedy: Which layers.
        recipe: How the layers will be quantized.
        choose: Returns the factors to try, each with the α that they come from.
        is_judged: Whether a reader's output error counts.
        unjudged: Why a tensor is left alone of which no reader counts.
        is_forced: Whether factors are moved even if the error becomes larger.

    Returns:
        One entry for each tensor. Its errors are those of the outputs of all judged layers that
        read it, or it says why the tensor is left alone.
    """
    calls = LayerCalls(passes.prepared.model, graph)
    groups, left_alone = find_groups(calls, graph, remedy, recipe)
    _watch(passes, {r.layer.name: r for _, readers in groups for r in readers})
    done = []
    for source, readers in groups:
        names = tuple(reader.layer.name for reader in readers)
        judged = [reader for reader in readers if is_judged(reader)]
        reason = "" if judged else unjudged
        if not reason and any(reader.seen.first is None for reader in readers):
            reason = "nothing entered the layers on the calibration data"
        if reason:
            done.append(Treatment.refused(remedy, *names, reason=reason))
            continue
        tried = choose(readers, judged)
        done.append(move_best(remedy.kind, source, readers, judged, tried, is_forced))
    return [*done, *left_alone]


def _watch(passes: Passes, readers: Mapping[str, Reader]) -> None:
    """Note what enters readers on all data."""

    def observe(name: str, x: Tensor) -> None:
        reader = readers[name]
        found, rows = reader.seen, x.movedim(reader.axis, 0).flatten(1).abs()
        found.largest = torch.maximum(found.largest, rows.amax(dim=1).double())
        found.total = found.total + rows.sum(dim=1, dtype=torch.float64)
        found.count += rows.shape[1]
        if found.first is None:
            found.first = x[:MOST_SAMPLES].clone()

    if readers:
        passes.watch_inputs(readers, observe)


def move_best(
    kind: str, source: Source, readers: Readers, judged: Readers, tried: Tried, is_forced: bool
) -> Treatment:
    """Move the factors with the smallest output error, if that is smaller than without.

    Args:
        kind: Of the remedy.
        source: What is divided.
        readers: What is multiplied.
        judged: Those of them whose output errors count: they will be quantized.
        tried: Factors of each channel, and the α that they come from.
        is_forced: Whether they are moved even if the error becomes larger.

    Returns:
        What was done; its errors are those of the outputs of the judged readers.
    """
    names = tuple(reader.layer.name for reader in readers)
    expected = [_float_output(reader) for reader in judged]
    before = output_error(judged, torch.ones_like(tried[0][0]), expected)
    errors = [output_error(judged, factors, expected) for factors, _ in tried]
    best = min(range(len(tried)), key=lambda number: errors[number])
    factors, alpha = tried[best]
    is_applied = is_forced or errors[best] < before
    if is_applied:
        source.divide(factors)
        for reader in readers:
            reader.layer.assign(reader.multiplied_weight(factors), reader.layer.bias)
    return Treatment(
        kind,
        names,
        is_applied=is_applied,
        reason="" if is_applied else f"no α makes the output error smaller; the best is {alpha:g}",
        scales=tuple(factors.tolist()) if is_applied else (),
        error_before=before,
        error_after=errors[best],
        error_of="layer outputs",
        alpha=alpha,
        folded_into=source.name,
    )


def output_error(readers: Readers, factors: Tensor, expected: Sequence[Tensor]) -> float:
    """Return √(Σ(y - ŷ)² / Σy²) over the outputs of layers quantized behind a smoothing.

    Args:
        readers: The layers.
        factors: What their inputs are divided by, (channels,).
        expected: y, the output of each float layer, float64.
    """
    noise = signal = 0.0
    for reader, y in zip(readers, expected, strict=True):
        x = reader.seen.first
        assert x is not None
        spread_factors = spread(factors, reader.times).to(x.dtype)
        shape = [1] * x.dim()
        shape[reader.axis] = -1
        smoothed = x / spread_factors.view(shape)
        layer = _quantized(reader, reader.multiplied_weight(factors), smoothed)
        noise += (layer(smoothed).double() - y).square().sum().item()
        signal += y.square().sum().item()
    return float((noise / signal) ** 0.5) if signal else 0.0


def _float_output(reader: Reader) -> Tensor:
    x = reader.seen.first
    assert reader.scheme is not None and x is not None  # noqa: PT018
    kind = get_quantized_type(reader.layer.module)
    y: Tensor = kind.like(reader.layer.module, reader.scheme)(x)
    return y.double()


def rounded_layer(reader: Reader, weight: Tensor) -> QuantizedLayer:
    """Return a reader that will be quantized with another weight, rounded; its input is not."""
    assert reader.scheme is not None
    old: Tensor = reader.layer.module.weight  # type: ignore[assignment]
    layer = get_quantized_type(reader.layer.module).like(reader.layer.module, reader.scheme)
    layer.weight = nn.Parameter(weight.to(old.dtype), requires_grad=False)
    layer.quantize_weights()
    return layer


def _quantized(reader: Reader, weight: Tensor, x: Tensor) -> QuantizedLayer:
    """Return a reader with another weight, quantized for an input."""
    layer = rounded_layer(reader, weight)
    activation = layer.scheme.activation
    if activation is not None and not activation.is_dynamic:
        histogram = Histogram()
        histogram.update(x)
        layer.set_input_qparams(choose_input_qparams(histogram, activation))
    return layer
