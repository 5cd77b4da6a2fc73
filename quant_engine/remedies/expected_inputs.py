"""What enters a layer on average, from BatchNorm's statistics alone.

A BatchNorm leaves its channels with mean β and deviation |γ|, and taken as normal, x ~ N(β, γ²),
an activation f behind it passes on E[f(x)]. Of ReLU that is the mean of a clipped normal,

    E[max(0, x)] = |γ| φ(β / |γ|) + β Φ(β / |γ|)

(Nagel et al., ICCV 2019, section 4.2.1). Here any f is averaged over a grid of the normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, fx

from quant_engine.graph.layer_calls import LAYERS, LayerCalls
from quant_engine.graph.nodes import module_path, source_of
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.remedies.chains import (
    AVERAGES,
    MOVES,
    NotFollowedError,
    carried,
    name_operation,
    output_channels,
)

aten = torch.ops.aten

FURTHEST = 8.0
"""Deviations from the mean that the grid of a normal reaches."""

_ACTIVATIONS = frozenset(
    (
        *(aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default),
        *(aten.relu6.default, aten.relu6_.default, aten.clamp.default, aten.clamp_.default),
        *(aten.leaky_relu.default, aten.leaky_relu_.default, aten.elu.default, aten.elu_.default),
        *(aten.gelu.default, aten.silu.default, aten.silu_.default, aten.mish.default),
        *(aten.hardswish.default, aten.hardswish_.default, aten.hardsigmoid.default),
        *(aten.sigmoid.default, aten.tanh.default),
    )
)


def known_statistics(prepared: PreparedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and deviation of the outputs of layers that BatchNorms were folded into.

    What remedies moved between layers since is in them: outputs that were divided by factors, and
    offsets that were taken out.
    """
    found = dict(prepared.statistics)
    for done in prepared.treatments:
        layer = done.folded_into or (done.layers[0] if done.layers else "")
        if not done.is_applied or not done.scales or layer not in found:
            continue
        mean, deviation = found[layer]
        factors = mean.new_tensor(done.scales)
        shift = mean.new_tensor(done.shift) if done.shift else torch.zeros_like(mean)
        found[layer] = mean / factors - shift, deviation / factors
    return found


def expected_input(
    node: fx.Node, calls: LayerCalls, statistics: Mapping[str, tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the mean input of a layer, of the shape of one sample's, (1, ...).

    Args:
        node: The operation of a convolution or linear layer.
        calls: Of the graph that it is in.
        statistics: What `known_statistics` returns.

    Raises:
        NotFollowedError: If BatchNorm does not tell; the message says why.
    """
    given = source_of(node)
    path: list[fx.Node] = []
    origin = given
    while origin.target not in LAYERS:
        is_passed = origin.target in _ACTIVATIONS or origin.target in MOVES | AVERAGES
        # A second tensor among the arguments, such as a factor, is nothing that statistics tell of.
        if not is_passed or len(origin.all_input_nodes) != 1:
            raise NotFollowedError(
                f"its input comes from {name_operation(origin)}, whose mean BatchNorm does not tell"
            )
        path.insert(0, origin)
        origin = origin.all_input_nodes[0]
    source = module_path(origin)
    if source not in statistics or not calls.is_called_once(source):
        raise NotFollowedError(f"no BatchNorm was folded into {source!r}, which makes its input")
    mean, deviation = statistics[source]
    values, weights = _normal(mean.device)
    values = mean[:, None] + deviation[:, None] * values
    is_averaged = False
    for step in path:
        if step.target in _ACTIVATIONS:
            if is_averaged:
                raise NotFollowedError(f"{name_operation(step)} reads averages of a BatchNorm")
            values = step.target(values, *step.args[1:], **step.kwargs)
        is_averaged |= step.target in AVERAGES
    moves = [step for step in path if step.target not in _ACTIVATIONS]
    channels = carried(moves, output_channels(origin))
    if channels is None:
        raise NotFollowedError("the channels of its BatchNorm are not those of its input")
    if channels.spread > 1:
        raise NotFollowedError(
            "it reads single positions of channels, and BatchNorm tells their mean over all alone"
        )
    shape: list[int] = [int(size) for size in given.meta["val"].shape]
    shape[0] = 1 if channels.axis else shape[0]
    one = [1] * len(shape)
    one[channels.axis] = -1
    return (values @ weights).view(one).expand(shape)


@lru_cache(maxsize=4)
def _normal(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a grid of the standard normal, and the probability of each of its values."""
    grid = torch.linspace(-FURTHEST, FURTHEST, 4001, dtype=torch.float64, device=device)
    density = torch.exp(-grid.square() / 2) * (grid[1] - grid[0]) / math.sqrt(2 * math.pi)
    return grid, density / density.sum()
