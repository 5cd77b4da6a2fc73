"""Who reads the channels of a tensor, followed through operations that a factor passes.

An operation f passes positive factors if f(s · x) = s · f(x) for each channel: ReLU, LeakyReLU,
PReLU, pooling, padding with zeros, and whatever only moves values to other places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from quant_engine.graph.layer_calls import CONVOLUTIONS, LAYERS, LINEAR, TRANSPOSED, value_readers

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Channels:
    """Where the channels of a tensor lie.

    Attributes:
        axis: The axis, from the front.
        spread: Neighbours on it that belong to one channel; more than 1 behind a flattening.
    """

    axis: int
    spread: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A layer that reads the channels.

    Attributes:
        node: Its operation.
        spread: Input channels of the layer for each of the channels.
        axis: Axis of the layer's input that they lie on.
        keeps_offsets: Whether a constant added to a channel arrives as the same constant, as long
            as no value is below 0.
    """

    node: fx.Node
    spread: int
    axis: int
    keeps_offsets: bool


class NotFollowedError(Exception):
    """The channels go where no factor passes; the message says where."""


def output_channels(node: fx.Node) -> Channels:
    """Return where the output channels of a layer's operation, or of a normalization, lie."""
    dimensions = shape_of(node)
    if node.target in (*CONVOLUTIONS, *TRANSPOSED):
        return Channels(len(dimensions) - _spatial(node) - 1)
    return Channels(len(dimensions) - 1)


def follow(node: fx.Node, channels: Channels) -> list[Reading]:
    """Return all layers that read a tensor's channels.

    Args:
        node: What computes the tensor.
        channels: Where its channels lie.

    Raises:
        NotFollowedError: If something else reads them, or the model returns them.
    """
    return _follow(node, channels, True)


def _follow(node: fx.Node, channels: Channels, keeps_offsets: bool) -> list[Reading]:
    found = []
    for reader in value_readers(node):
        if reader.op == "output":
            raise NotFollowedError("the model returns its output")
        if reader.args[0] is node:
            if reader.target in LAYERS:
                if channels.axis != _input_axis(reader):
                    raise NotFollowedError(f"{name_operation(reader)} reads it along another axis")
                keeps = keeps_offsets and not _pads_with_zeros(reader)
                found.append(Reading(reader, channels.spread, channels.axis, keeps))
                continue
            after = _PASSED[reader.target](reader, channels) if reader.target in _PASSED else None
            if after is not None:
                keeps = keeps_offsets and reader.target in _KEEP_OFFSETS
                found += _follow(reader, after, keeps)
                continue
        raise NotFollowedError(f"{name_operation(reader)} reads it, which passes no factor on")
    return found


def passes_factors(node: fx.Node) -> bool:
    """Whether an operation may pass factors from its first argument on; `follow` knows for sure."""
    return node.target in _PASSED


def carried(path: Sequence[fx.Node], channels: Channels) -> Channels | None:
    """Return where channels lie behind operations that pass them on; None if one does not.

    Args:
        path: The operations, each reading the one before.
        channels: Where the channels lie in what the first reads.
    """
    found: Channels | None = channels
    for node in path:
        found = None if found is None else _PASSED[node.target](node, found)
    return found


def groups_of(node: fx.Node) -> int:
    """Return the groups of a layer's operation."""
    return int(node.args[6]) if node.target is not LINEAR and len(node.args) > 6 else 1  # type: ignore[arg-type]


_NAMES = {
    "hardtanh": "ReLU6",
    "relu6": "ReLU6",
    "gelu": "GELU",
    "silu": "SiLU",
    "hardswish": "Hardswish",
    "add": "an addition",
    "mul": "a multiplication",
    "cat": "a concatenation",
    "scaled_dot_product_attention": "attention",
}


def name_operation(node: fx.Node) -> str:
    """Return an operation's name in words, "ReLU6" for `aten.hardtanh.default`.

    Example:
        >>> graph = fx.Graph()
        >>> name_operation(graph.call_function(aten.add_.Tensor, (1, 2)))
        'an addition'
    """
    if node.op == "placeholder":
        return "the model's input"
    name = str(node.target).split(".")[-2 if "." in str(node.target) else 0].rstrip("_")
    if name == "hardtanh" and tuple(node.args[1:3]) != (0.0, 6.0):
        return "Hardtanh"
    return _NAMES.get(name, name)


def shape_of(node: object) -> tuple[int, ...]:
    """Return the shape of what an operation computes."""
    assert isinstance(node, fx.Node)
    return tuple(node.meta["val"].shape)


def _spatial(node: fx.Node) -> int:
    """Return the number of axes that a convolution's kernel has."""
    return len(shape_of(node.args[1])) - 2


def _input_axis(node: fx.Node) -> int:
    dimensions = len(shape_of(node.args[0]))
    return dimensions - 1 if node.target is LINEAR else dimensions - _spatial(node) - 1


def _pads_with_zeros(node: fx.Node) -> bool:
    """Whether a layer reads zeros besides its input, or not every value with every tap."""
    if node.target is LINEAR:
        return False
    padding = node.args[4] if len(node.args) > 4 else 0
    values = padding if isinstance(padding, list | tuple) else (padding,)
    return node.target in TRANSPOSED or any(value not in (0, "valid") for value in values)


def _elementwise(node: fx.Node, channels: Channels) -> Channels | None:
    return channels


def _in_eval_mode(node: fx.Node, channels: Channels) -> Channels | None:
    return None if node.args[2] else channels


def _pooled(axes: int) -> Callable[[fx.Node, Channels], Channels | None]:
    """Pooling over the last axes, which must not be those of the channels."""

    def rule(node: fx.Node, channels: Channels) -> Channels | None:
        return channels if channels.axis < len(shape_of(node.args[0])) - axes else None

    return rule


def _padded(node: fx.Node, channels: Channels) -> Channels | None:
    edges, mode = node.args[1], node.args[2] if len(node.args) > 2 else "constant"
    assert isinstance(edges, list | tuple)
    value = node.args[3] if len(node.args) > 3 else None
    if mode == "constant" and value:
        return None
    return channels if channels.axis < len(shape_of(node.args[0])) - len(edges) // 2 else None


def _averaged(node: fx.Node, channels: Channels) -> Channels | None:
    """`mean` over some axes, kept or not."""
    dimensions = len(shape_of(node.args[0]))
    listed = node.args[1] if len(node.args) > 1 else None
    if not isinstance(listed, list | tuple):
        return None
    axes = {int(axis) % dimensions for axis in listed}
    if channels.axis in axes:
        return None
    if len(node.args) > 2 and node.args[2]:
        return channels
    return Channels(channels.axis - sum(axis < channels.axis for axis in axes), channels.spread)


def _reshaped(node: fx.Node, channels: Channels) -> Channels | None:
    """Find the axis on which the channels lie in the new shape, alone or flattened with others."""
    old, new = shape_of(node.args[0]), shape_of(node)
    size, inner = old[channels.axis], math.prod(old[channels.axis + 1 :])
    for axis, width in enumerate(new):
        behind = math.prod(new[axis + 1 :])
        if width == size and behind == inner:
            return Channels(axis, channels.spread)
        if width % size == 0 and behind * (width // size) == inner:
            return Channels(axis, channels.spread * (width // size))
    return None


def _transposed(node: fx.Node, channels: Channels) -> Channels | None:
    dimensions = len(shape_of(node))
    first, second = (int(axis) % dimensions for axis in node.args[1:3])  # type: ignore[arg-type]
    moved = {first: second, second: first}
    return Channels(moved.get(channels.axis, channels.axis), channels.spread)


def _permuted(node: fx.Node, channels: Channels) -> Channels | None:
    dimensions = len(shape_of(node))
    order = [int(axis) % dimensions for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    return Channels(order.index(channels.axis), channels.spread)


_MOVING: Mapping[Any, Callable[[fx.Node, Channels], Channels | None]] = {
    **dict.fromkeys(
        (aten.clone.default, aten.contiguous.default, aten.detach.default), _elementwise
    ),
    **dict.fromkeys((aten.dropout.default, aten.dropout_.default), _in_eval_mode),
    **dict.fromkeys((aten.feature_dropout.default, aten.alpha_dropout.default), _in_eval_mode),
    **dict.fromkeys((aten.view.default, aten.reshape.default), _reshaped),
    **dict.fromkeys((aten.flatten.using_ints, aten.unsqueeze.default), _reshaped),
    **dict.fromkeys((aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default), _reshaped),
    aten.transpose.int: _transposed,
    aten.permute.default: _permuted,
}
_ACTIVATIONS = (
    *(aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default),
    aten.prelu.default,
)
_PASSED: Mapping[Any, Callable[[fx.Node, Channels], Channels | None]] = {
    **_MOVING,
    **dict.fromkeys(_ACTIVATIONS, _elementwise),
    **dict.fromkeys((aten.max_pool1d.default, aten.avg_pool1d.default), _pooled(1)),
    **dict.fromkeys((aten.max_pool2d.default, aten.avg_pool2d.default), _pooled(2)),
    aten.adaptive_avg_pool1d.default: _pooled(1),
    aten.adaptive_avg_pool2d.default: _pooled(2),
    aten.mean.dim: _averaged,
    aten.pad.default: _padded,
}
_KEEP_OFFSETS = frozenset(
    (
        *(*_MOVING, *_ACTIVATIONS),
        *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim),
    )
)
MOVES = frozenset(_MOVING)
"""Operations that only move values to other places."""
AVERAGES = frozenset(
    (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
)
"""Operations that average whole channels, so that their means stay."""
