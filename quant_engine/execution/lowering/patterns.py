"""What the operations of a graph do to codes: which pass them on, can be fused, or add."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from quant_engine.execution.integer import why_not_integer
from quant_engine.execution.lowering.marking import LAYER
from quant_engine.layers import QuantizedLayer
from quant_engine.model.modules import has_hooks

RELU = "relu"
RELU6 = "relu6"

aten = torch.ops.aten

_MOVING = frozenset(
    {
        *(aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int),
        *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default),
        *(aten.clone.default, aten.expand.default, aten.flip.default, aten.roll.default),
        *(aten.t.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default),
    }
)
_CHOOSING = frozenset({aten.slice.Tensor, aten.select.int, aten.max_pool2d.default})
_GELU = {"none": "gelu", "tanh": "gelu_tanh"}


def input_of(node: fx.Node) -> fx.Node | None:
    """Return the node whose value a node works on: its first argument."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def is_tensor(node: Any) -> bool:
    """Whether a node's value is a tensor, not a length or a tuple."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def lowerable_layer(node: fx.Node, layers: Mapping[str, QuantizedLayer]) -> QuantizedLayer | None:
    """Return the layer of a node that can compute on integers and has a calibrated input."""
    if node.target is not LAYER or node.args[2]:
        return None
    layer = layers[str(node.args[1])]
    if layer.input_qparams is None or why_not_integer(layer) or has_hooks(layer):
        return None
    return layer


def is_reshaping(node: fx.Node) -> bool:
    """Whether a node moves or repeats values without changing or dropping any."""
    return node.target in _MOVING or joined_nodes(node) is not None


def is_choosing(node: fx.Node) -> bool:
    """Whether every value of a node is one of its input's, but not all of them appear."""
    return node.target in _CHOOSING


def joined_nodes(node: fx.Node) -> list[fx.Node] | None:
    """Return the nodes that a node concatenates, or None."""
    if node.target is not aten.cat.default:
        return None
    parts = node.args[0]
    assert isinstance(parts, list | tuple)
    is_float = all(is_tensor(p) and p.meta["val"].dtype == torch.float32 for p in parts)  # type: ignore[union-attr]
    return list(parts) if is_float else None  # type: ignore[arg-type]


def operands_of(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose values a node moves or clamps: its first argument, or several."""
    source = input_of(node)
    return joined_nodes(node) or ([] if source is None else [source])


def passed_nodes(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose codes a node moves, chooses from or clamps; else none."""
    is_passing = is_reshaping(node) or is_choosing(node) or clamp_of(node)
    return operands_of(node) if is_passing else []


def clamp_of(node: fx.Node) -> str:
    """Return "relu" or "relu6" where a node is one of them, else ""."""
    if node.target is aten.relu.default:
        return RELU
    if node.target is aten.relu6.default:
        return RELU6
    if node.target is aten.hardtanh.default and tuple(node.args[1:]) == (0.0, 6.0):
        return RELU6
    return ""


def gelu_of(node: fx.Node) -> str:
    """Return the kernels' name of the GELU that a node is, or ""."""
    if node.target is not aten.gelu.default:
        return ""
    return _GELU.get(str(node.kwargs.get("approximate", "none")), "")


def added_nodes(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two nodes that a node adds, float32 of one shape; None if it is no such sum."""
    if node.target is not aten.add.Tensor or node.kwargs:
        return None
    first, second = node.args
    if not is_tensor(first) or not is_tensor(second) or first is second:
        return None
    forms = {(x.meta["val"].dtype, str(x.meta["val"].shape)) for x in (first, second)}  # type: ignore[union-attr]
    is_plain = len(forms) == 1 and first.meta["val"].dtype == torch.float32  # type: ignore[union-attr]
    return (first, second) if is_plain else None  # type: ignore[return-value]


def is_length(node: fx.Node) -> bool:
    """Whether a node asks for the length of an axis only."""
    return node.target is aten.sym_size.int


def is_idle(node: fx.Node, tensors: Mapping[str, Any]) -> bool:
    """Whether a node returns its first input as it is: dropout, or a BatchNorm that was folded.

    Args:
        node: The node.
        tensors: The tensors that nodes read, by name.
    """
    source = input_of(node)
    if source is None or source.op != "call_function":
        return False  # a copy of what the model holds or was given is meant to be one
    if node.target in (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default):
        return True
    if node.target is aten.clone.default:
        return not node.kwargs
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    if source.target is not aten._native_batch_norm_legit_no_training.default:
        return False
    values = [
        tensors.get(str(argument.target)) if isinstance(argument, fx.Node) else argument
        for argument in source.args[1:5]
    ]
    neutral = (1.0, 0.0, 0.0, 1.0)
    return bool(source.args[6] == 0.0) and all(
        value is None or (isinstance(value, Tensor) and bool((value == expected).all()))
        for value, expected in zip(values, neutral, strict=True)
    )
