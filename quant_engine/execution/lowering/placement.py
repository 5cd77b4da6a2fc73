"""Q/DQ propagation: where in a graph codes can stand for values, and on which grid.

A layer rounds its input to a grid. If everything that reads a value rounds it to the same grid, it
can be rounded once, where it is made. ReLU, max pooling, reshaping and concatenation give the same
whether rounding comes before or after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.lowering.patterns import (
    added_nodes,
    clamp_of,
    gelu_of,
    is_choosing,
    is_length,
    is_reshaping,
    lowerable_layer,
    passed_nodes,
)
from quant_engine.layers import QuantizedLayer, QuantizedLinear
from quant_engine.tensors.affine import QParams


@dataclass(slots=True, eq=False)
class Fusion:
    """A layer and the nodes after it that run with it.

    Attributes:
        layer: Node of the layer.
        addition: Node that adds to its output, or None.
        skip: Node of what is added, or None.
        activation: Name of the activation; empty for none.
        end: The last of these nodes.
    """

    layer: fx.Node
    addition: fx.Node | None
    skip: fx.Node | None
    activation: str
    end: fx.Node


@dataclass(slots=True, eq=False)
class Placement:
    """What was decided for the nodes of a graph.

    Attributes:
        grids: Node -> the one grid that its readers round it to.
        codes_only: Nodes of which nothing reads the float value.
        qparams: Grid -> the same as tensors.
        fusions: Last node of a fusion -> the fusion.
        fused: Nodes that run inside a fusion and have no value of their own.
        layers: Node -> the layer it calls, for layers that can compute on integers.
    """

    grids: dict[fx.Node, Grid] = field(default_factory=dict)
    codes_only: set[fx.Node] = field(default_factory=set)
    qparams: dict[Grid, QParams] = field(default_factory=dict)
    fusions: dict[fx.Node, Fusion] = field(default_factory=dict)
    fused: set[fx.Node] = field(default_factory=set)
    layers: dict[fx.Node, QuantizedLayer] = field(default_factory=dict)


def place_codes(graph: fx.Graph, layers: Mapping[str, QuantizedLayer]) -> Placement:
    """Decide, from the last node to the first, which values are held as codes.

    Args:
        graph: Operations that make new tensors.
        layers: The quantized layers by name.
    """
    found = {node: lowerable_layer(node, layers) for node in graph.nodes}
    placement = Placement(layers={n: layer for n, layer in found.items() if layer is not None})
    _find_fusions(graph, placement)
    additions = {f.addition: f for f in placement.fusions.values() if f.addition is not None}
    passed_through: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        wanted: set[Grid] = set()
        is_float_read = is_flexible = is_indirect = False
        for user in readers(node):
            fusion = additions.get(user)
            if (
                fusion is not None
                and fusion.skip is node
                # What a convolution adds may be codes: a quarter of the bytes, for one more
                # rounding of the skipped value. The kernels of Linear layers add values only.
                and not isinstance(placement.layers[fusion.layer], QuantizedLinear)
            ):
                is_flexible = True
                continue
            grid = _wanted_by(user, node, placement)
            if grid is None:
                is_float_read = True
            else:
                wanted.add(grid)
                is_narrower = bool(clamp_of(user)) or is_choosing(user)
                is_indirect |= is_narrower or user in passed_through
        # Behind a ReLU or a pooling the grid fits what comes out of it, not what goes in.
        is_float_read |= is_flexible and is_indirect
        if len(wanted) == 1:
            placement.grids[node] = wanted.pop()
            if is_indirect and is_reshaping(node):
                passed_through.add(node)
            if not is_float_read:
                placement.codes_only.add(node)
    return placement


def readers(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that read a node's values, not only a length of it."""
    return [user for user in node.users if not is_length(user)]


def _wanted_by(user: fx.Node, node: fx.Node, placement: Placement) -> Grid | None:
    """Return the grid that `user` rounds `node` to; None if it reads the float value."""
    layer = placement.layers.get(user)
    if layer is not None and layer.input_qparams is not None:
        grid = Grid.of(layer.input_qparams)
        placement.qparams[grid] = layer.input_qparams
        return grid
    is_passed = node in passed_nodes(user) and user in placement.codes_only
    return placement.grids[user] if is_passed else None


def _find_fusions(graph: fx.Graph, placement: Placement) -> None:
    order = {node: number for number, node in enumerate(graph.nodes)}
    main = {}
    for node in graph.nodes:
        pair = added_nodes(node)
        if pair is None:
            continue
        layers = [n for n in pair if n in placement.layers and len(readers(n)) == 1]
        if layers:
            main[node] = max(layers, key=lambda n: order[n])
    for node in placement.layers:
        end, addition, skip = node, None, None
        follower = _only_reader(end)
        if follower is not None and main.get(follower) is node:
            pair = added_nodes(follower)
            assert pair is not None
            skip = pair[0] if pair[1] is node else pair[1]
            end, addition = follower, follower
        follower = _only_reader(end)
        activation = "" if follower is None else clamp_of(follower) or gelu_of(follower)
        if activation and follower is not None:
            end = follower
        placement.fusions[end] = Fusion(node, addition, skip, activation, end)
        placement.fused |= {n for n in (node, addition) if n is not None and n is not end}


def _only_reader(node: fx.Node) -> fx.Node | None:
    found = readers(node)
    return found[0] if len(found) == 1 else None
