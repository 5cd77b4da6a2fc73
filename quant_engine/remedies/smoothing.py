"""SmoothQuant: loud input channels are divided, and the weights that read them multiplied.

    y = (X diag(s)⁻¹) (diag(s) W),    s_j = max|X_j|^α / max|W_j|^(1 - α)

The division is folded into what computes the channels: the weights of a normalization, of a linear
layer or of a convolution. All layers that read a tensor share its s. α moves the difficulty of
rounding from inputs (0) to weights (1). Xiao et al., ICML 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from quant_engine.graph import LAYERS, LayerCalls, attribute_of, module_path
from quant_engine.layers import QuantizedLayer, get_quantized_type, is_quantizable
from quant_engine.model.batches import Batch
from quant_engine.model.forward import layer_input, run_model, watched_layers
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.remedies.chains import (
    NotFollowedError,
    Reading,
    follow,
    name_operation,
    output_channels,
    passes_factors,
)
from quant_engine.remedies.channels import Layer, gathered, spread
from quant_engine.remedies.members import describe_refusal, layer_of
from quant_engine.report import Treatment
from quant_engine.scheme import AUTO, LayerScheme, Recipe, SmoothQuant
from quant_engine.tensors.histogram import Histogram
from quant_engine.tensors.observers import choose_input_qparams

ALPHAS = (0.25, 0.4, 0.5, 0.65, 0.8)
"""What "auto" chooses from, besides no smoothing at all."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer that reads the channels.

    Attributes:
        layer: The layer.
        times: Input channels of the layer for each of the channels.
        axis: Axis of its input that they lie on, from the end.
        scheme: How it will be quantized; None if it stays float.
    """

    layer: Layer
    times: int
    axis: int
    scheme: LayerScheme | None

    def reach(self) -> Tensor:
        """Return the largest weight that reads each channel, (channels,)."""
        return gathered(self.layer.input_reach(self.layer.weight), self.times)

    def smoothed_weight(self, factors: Tensor) -> Tensor:
        """Return the weight with each channel's column multiplied by its factor, float64."""
        weight = self.layer.weight
        self.layer.multiply_inputs(weight, spread(factors, self.times))
        return weight


@dataclass(slots=True, eq=False)
class _Seen:
    """What entered a reader: largest magnitude of each input channel, and the first samples."""

    largest: Tensor = field(default_factory=lambda: torch.zeros(()).double())
    first: Tensor | None = None


def smooth(
    prepared: PreparedModel,
    graph: fx.GraphModule,
    remedy: SmoothQuant,
    recipe: Recipe,
    batches: Sequence[Batch],
) -> tuple[Treatment, ...]:
    """Smooth the inputs of all layers that a remedy names, in place.

    Args:
        prepared: The model.
        graph: What it computes, captured from it.
        remedy: Which layers, and α.
        recipe: How the layers will be quantized.
        batches: Data on which ranges and errors are measured.

    Returns:
        One entry for each tensor that is smoothed; its errors are those of the outputs of all
        layers that read it. And one for each tensor that is not, with the reason.
    """
    calls = LayerCalls(prepared.model, graph)
    groups, refused = find_groups(calls, graph, remedy, recipe)
    seen = _watch(prepared, [reader for _, readers in groups for reader in readers], batches)
    done = [_smooth_group(remedy, source, readers, seen) for source, readers in groups]
    return (*done, *refused)


def find_groups(
    calls: LayerCalls, graph: fx.GraphModule, remedy: SmoothQuant, recipe: Recipe
) -> tuple[list[tuple[Source, list[Reader]]], list[Treatment]]:
    """Find the tensors that layers read and that can be smoothed, and say why others cannot."""
    groups: list[tuple[Source, list[Reader]]] = []
    refused: list[Treatment] = []
    known: set[fx.Node] = set()
    places = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        if node.target not in LAYERS or not remedy.treats(module_path(node)) or node in known:
            continue
        names = [module_path(node)]
        try:
            origin = _origin(node)
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
            refused.append(describe_refusal(remedy.kind, names, error))
    return groups, list(dict.fromkeys(refused))


def _origin(node: fx.Node) -> fx.Node:
    """Go back from a layer to what computes the channels that it reads."""
    origin = node.args[0]
    assert isinstance(origin, fx.Node)
    while passes_factors(origin):
        before = origin.args[0]
        assert isinstance(before, fx.Node)
        origin = before
    return origin


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
        if vector is not None and factor is not None and _is_vector(factor, node):
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


def _is_vector(factor: object, node: fx.Node) -> bool:
    """Whether a factor has one value for each channel on the last axis of a product."""
    assert isinstance(factor, fx.Node)
    shape: Sequence[int] = factor.meta["val"].shape
    return tuple(shape) == tuple(node.meta["val"].shape[-1:])


def _reader(calls: LayerCalls, reading: Reading, recipe: Recipe) -> Reader:
    layer = layer_of(calls, reading.node)
    if not is_quantizable(layer.module):
        kind = type(layer.module).__name__
        raise NotFollowedError(f"{layer.name!r} is a {kind}, which has no quantized form")
    inputs = reading.node.args[0]
    assert isinstance(inputs, fx.Node)
    axis = reading.axis - inputs.meta["val"].dim()
    return Reader(layer, reading.spread, axis, recipe.layer_scheme(layer.name))


def _watch(
    prepared: PreparedModel, readers: Sequence[Reader], batches: Sequence[Batch]
) -> dict[str, _Seen]:
    """Return what enters the readers on all data."""
    axes = {reader.layer.name: reader.axis for reader in readers}
    seen = {name: _Seen() for name in axes}

    def observe(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: Any) -> None:
        x = layer_input(args, kwargs)
        if x is None or not x.numel():
            return
        found, rows = seen[name], x.detach().movedim(axes[name], 0).flatten(1)
        found.largest = torch.maximum(found.largest, rows.abs().amax(dim=1).double())
        if found.first is None:
            found.first = x.detach()[:MOST_SAMPLES].clone()

    if axes:
        watched = {reader.layer.name: reader.layer.module for reader in readers}
        with watched_layers(watched, observe), torch.random.fork_rng(devices=[]):
            for batch in batches:
                run_model(prepared.model, batch)
        prepared.state.write(prepared.model)
    return seen


def _smooth_group(
    remedy: SmoothQuant, source: Source, readers: Sequence[Reader], seen: Mapping[str, _Seen]
) -> Treatment:
    """Smooth the tensor that the readers read, if that is good."""
    names = tuple(reader.layer.name for reader in readers)
    rounding = [r for r in readers if r.scheme is not None and r.scheme.activation is not None]
    if not rounding:
        return Treatment(remedy.kind, names, is_applied=False, reason="the inputs stay float")
    if any(seen[name].first is None for name in names):
        reason = "nothing entered the layers on the calibration data"
        return Treatment(remedy.kind, names, is_applied=False, reason=reason)
    inputs = [gathered(seen[r.layer.name].largest, r.times) for r in readers]
    largest = torch.stack(inputs).amax(dim=0)
    reach = torch.stack([reader.reach() for reader in readers]).amax(dim=0)
    before = _output_error(rounding, torch.ones_like(reach), seen)
    alphas = ALPHAS if remedy.alpha == AUTO else (float(remedy.alpha),)
    tried = [(smoothing_factors(largest, reach, alpha), alpha) for alpha in alphas]
    errors = [_output_error(rounding, factors, seen) for factors, _ in tried]
    best = min(range(len(tried)), key=lambda number: errors[number])
    factors, alpha = tried[best]
    is_applied = remedy.alpha != AUTO or errors[best] < before
    if is_applied:
        source.divide(factors)
        for reader in readers:
            reader.layer.assign(reader.smoothed_weight(factors), reader.layer.bias)
    return Treatment(
        remedy.kind,
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


def smoothing_factors(largest: Tensor, reach: Tensor, alpha: float) -> Tensor:
    """Return max|X_j|^α / max|W_j|^(1 - α) for each channel; 1 where one of the two is 0.

    Args:
        largest: Largest magnitude of each input channel, (channels,).
        reach: Largest magnitude of the weights that read it.
        alpha: How much moves to the weights.

    Example:
        >>> smoothing_factors(torch.tensor([64.0, 0.0]), torch.tensor([4.0, 1.0]), 0.5).tolist()
        [4.0, 1.0]
    """
    is_alive = (largest > 0) & (reach > 0)
    x, w = torch.where(is_alive, largest, 1.0), torch.where(is_alive, reach, 1.0)
    return x**alpha / w ** (1 - alpha)


def _output_error(readers: Sequence[Reader], factors: Tensor, seen: Mapping[str, _Seen]) -> float:
    """Return √(Σ(y - ŷ)² / Σy²) over the outputs of layers quantized behind a smoothing."""
    noise = signal = 0.0
    for reader in readers:
        scheme, x = reader.scheme, seen[reader.layer.name].first
        assert scheme is not None and x is not None and scheme.activation is not None  # noqa: PT018
        kind = get_quantized_type(reader.layer.module)
        spread_factors = spread(factors, reader.times).to(x.dtype)
        shape = [1] * x.dim()
        shape[reader.axis] = -1
        smoothed = x / spread_factors.view(shape)
        layer = _quantized(kind, reader, scheme, reader.smoothed_weight(factors), smoothed)
        expected = kind.like(reader.layer.module, scheme)(x).double()
        noise += (layer(smoothed).double() - expected).square().sum().item()
        signal += expected.square().sum().item()
    return float((noise / signal) ** 0.5) if signal else 0.0


def _quantized(
    kind: type[QuantizedLayer], reader: Reader, scheme: LayerScheme, weight: Tensor, x: Tensor
) -> QuantizedLayer:
    """Return a reader with another weight, quantized for an input."""
    old: Tensor = reader.layer.module.weight  # type: ignore[assignment]
    layer = kind.like(reader.layer.module, scheme)
    layer.weight = nn.Parameter(weight.to(old.dtype), requires_grad=False)
    layer.quantize_weights()
    assert scheme.activation is not None
    if not scheme.activation.is_dynamic:
        histogram = Histogram()
        histogram.update(x)
        layer.set_input_qparams(choose_input_qparams(histogram, scheme.activation))
    return layer
