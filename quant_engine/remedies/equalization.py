"""Cross-layer equalization: factors move between two layers until their channels are alike.

With W₁ the layer that makes a channel i, W₂ the one that reads it, and r = max|.| of the weights:

    W₁ᵢ → W₁ᵢ / sᵢ,   b₁ᵢ → b₁ᵢ / sᵢ,   W₂ᵢ → W₂ᵢ · sᵢ,   sᵢ = √(r₁ᵢ / r₂ᵢ)

so both ranges become √(r₁ᵢ r₂ᵢ). In between stands only what passes factors; see `chains`. All
pairs are swept until no factor is further than 0.001 from 1 (Nagel et al., ICCV 2019, sections 4.1
and 4.1.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from quant_engine.graph.layer_calls import LAYERS, LayerCalls
from quant_engine.graph.nodes import module_path
from quant_engine.layers import get_quantized_type, is_quantizable
from quant_engine.model.forward import primary_output
from quant_engine.remedies.chains import NotFollowedError, follow, output_channels
from quant_engine.remedies.channels import (
    ChannelValues,
    Layer,
    gathered,
    layer_of,
    spread,
)
from quant_engine.remedies.passes import Passes
from quant_engine.report import Treatment
from quant_engine.scheme import CrossLayerEqualization, Recipe
from quant_engine.tensors.affine import fake_quantize
from quant_engine.tensors.observers import choose_weight_qparams, weight_rows

MOST_SWEEPS = 50
CLOSE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two layers with channels between them that factors can move through.

    Attributes:
        first: Makes the channels.
        second: Reads them.
        times: Input channels of the second for each of the channels.
        keeps_offsets: Whether a constant taken from a channel can be added to the second's bias.
    """

    first: Layer
    second: Layer
    times: int
    keeps_offsets: bool

    @property
    def names(self) -> tuple[str, str]:
        """Names of both layers."""
        return self.first.name, self.second.name


def equalize(
    passes: Passes, graph: fx.GraphModule, remedy: CrossLayerEqualization, recipe: Recipe
) -> tuple[Treatment, ...]:
    """Equalize all pairs of layers that a remedy names, in place.

    Args:
        passes: Over calibration data, of the model.
        graph: What it computes, captured from it.
        remedy: Which layers.
        recipe: How the layers will be quantized, for the errors before and after.

    Returns:
        One entry for each pair, and for each layer that has no partner.
    """
    pairs, refused = find_pairs(LayerCalls(passes.prepared.model, graph), graph, remedy)
    layers = {layer.name: layer for pair in pairs for layer in (pair.first, pair.second)}
    weights = {name: layer.weight for name, layer in layers.items()}
    biases = {name: layer.bias for name, layer in layers.items()}
    before = {name: _weight_error(layer, recipe) for name, layer in layers.items()}
    factors = _sweep(pairs, weights)
    for pair, scales in zip(pairs, factors, strict=True):
        bias = biases[pair.first.name]
        biases[pair.first.name] = None if bias is None else bias / scales
    for name, layer in layers.items():
        layer.assign(weights[name], biases[name])
    shifts = _absorb(passes, pairs) if remedy.absorb_bias else {}
    after = {name: _weight_error(layer, recipe) for name, layer in layers.items()}
    done = (
        Treatment(
            remedy.kind,
            pair.names,
            is_applied=True,
            scales=tuple(scales.tolist()),
            shift=tuple(shifts.get(pair.names, ())),
            error_before=_mean(before[name] for name in pair.names),
            error_after=_mean(after[name] for name in pair.names),
            error_of="weights",
        )
        for pair, scales in zip(pairs, factors, strict=True)
    )
    return (*done, *refused)


def find_pairs(
    calls: LayerCalls, graph: fx.GraphModule, remedy: CrossLayerEqualization
) -> tuple[list[Pair], list[Treatment]]:
    """Find all pairs that can be equalized, and say why other layers cannot.

    Args:
        calls: Of the graph.
        graph: What the model computes.
        remedy: Which layers to treat.
    """
    pairs: list[Pair] = []
    refused: list[Treatment] = []
    for node in graph.graph.nodes:
        if node.target not in LAYERS or not remedy.treats(module_path(node)):
            continue
        names: tuple[str, ...] = (module_path(node),)
        try:
            first = layer_of(calls, node)
            readings = follow(node, output_channels(node))
            if len(readings) != 1:
                raise NotFollowedError(f"{len(readings)} layers read its output")
            reading = readings[0]
            names = (*names, module_path(reading.node))
            if not remedy.treats(names[1]):
                raise NotFollowedError(f"{names[1]!r} reads its output and is not to be treated")
            second = layer_of(calls, reading.node)
        except NotFollowedError as error:
            refused.append(Treatment.refused(remedy, *names, reason=str(error)))
        else:
            pairs.append(Pair(first, second, reading.spread, reading.keeps_offsets))
    return pairs, list(dict.fromkeys(refused))


def _sweep(pairs: Sequence[Pair], weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Equalize weights in place until nothing moves; returns the factors of every pair."""
    totals = [torch.ones(len(p.first.output_reach(weights[p.first.name]))).double() for p in pairs]
    for _ in range(MOST_SWEEPS):
        furthest = 0.0
        for total, pair in zip(totals, pairs, strict=True):
            first, second = (weights[name] for name in pair.names)
            scales = equalizing_factors(
                pair.first.output_reach(first),
                gathered(pair.second.input_reach(second), pair.times),
            )
            pair.first.divide_outputs(first, scales)
            pair.second.multiply_inputs(second, spread(scales, pair.times))
            total *= scales
            furthest = max(furthest, (scales - 1).abs().max().item())
        if furthest < CLOSE:
            break
    return totals


def equalizing_factors(first: Tensor, second: Tensor) -> Tensor:
    """Return √(r₁ / r₂) for each channel; 1 where one of the ranges is 0.

    Args:
        first: Ranges in the layer that makes the channels, (channels,).
        second: Ranges in the layer that reads them.

    Example:
        >>> equalizing_factors(torch.tensor([4.0, 0.0]), torch.tensor([1.0, 3.0])).tolist()
        [2.0, 1.0]
    """
    is_alive = (first > 0) & (second > 0)
    ratio = torch.where(is_alive, first, 1.0) / torch.where(is_alive, second, 1.0)
    return ratio.sqrt()


def _absorb(passes: Passes, pairs: Sequence[Pair]) -> dict[tuple[str, ...], list[float]]:
    """Move offsets that channels have on all data into the next bias, in place.

    A channel that is never below c gives c + f(x - c), whatever ReLU f stands behind it. c is the
    mean less three standard deviations, at most the smallest value seen; 0 where that is negative.
    """
    able = [
        pair
        for pair in pairs
        if pair.keeps_offsets and pair.first.bias is not None and is_quantizable(pair.first.module)
    ]
    if not able:
        return {}
    modules = {pair.first.name: pair.first.module for pair in able}
    seen = {name: ChannelValues() for name in modules}

    def observe(name: str, _args: Any, _kwargs: Any, output: Any) -> None:
        y = primary_output(output)
        assert y is not None
        if y.numel():
            seen[name].update(y, get_quantized_type(modules[name]).output_axis)

    passes.watch(passes.prepared.model, modules, observe)
    shifts: dict[tuple[str, ...], list[float]] = {}
    for pair in able:
        shift = seen[pair.first.name].offset()
        if not shift.any():
            continue
        second = pair.second
        moved = second.applied_to(second.weight, spread(shift, pair.times))
        bias, next_bias = pair.first.bias, second.bias
        assert bias is not None
        pair.first.assign(pair.first.weight, bias - shift)
        second.assign(second.weight, moved if next_bias is None else next_bias + moved)
        shifts[pair.names] = shift.tolist()
    return shifts


def _weight_error(layer: Layer, recipe: Recipe) -> float | None:
    """Return the error of a layer's rounded weight, each output channel counting alike."""
    scheme = recipe.layer_scheme(layer.name)
    if scheme is None or not is_quantizable(layer.module):
        return None
    weight, axis = layer.weight.float(), get_quantized_type(layer.module).channel_axis
    rounded = fake_quantize(weight, choose_weight_qparams(weight, scheme.weight, axis))
    energies = weight_rows(weight, axis).square().sum(dim=1)
    errors = weight_rows(weight - rounded, axis).square().sum(dim=1)
    alive = energies > 0
    return (errors[alive] / energies[alive]).mean().sqrt().item() if alive.any() else 0.0


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
