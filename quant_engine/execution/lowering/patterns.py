"""What the nodes of a graph do to codes: which pass them on, which can be fused, which add."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from quant_engine.execution.integer import why_not_integer
from quant_engine.layers import QuantizedLayer
from quant_engine.model.modules import has_hooks

RELU = "relu"
RELU6 = "relu6"

_IDLE_MODULES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_RESHAPING_MODULES = (nn.Flatten,)
_RESHAPING_METHODS = frozenset(
    {"flatten", "reshape", "view", "permute", "transpose", "contiguous", "squeeze", "unsqueeze"}
)
_RESHAPING_FUNCTIONS = (torch.flatten, torch.reshape, torch.permute, torch.transpose)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELU_FUNCTIONS = (torch.relu, F.relu, torch.relu_)
_GELU = {"none": "gelu", "tanh": "gelu_tanh"}


def module_of(node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, or None."""
    if node.op != "call_module":
        return None
    owner = node.graph.owning_module
    assert owner is not None
    return owner.get_submodule(str(node.target))


def input_of(node: fx.Node) -> fx.Node | None:
    """Return the node whose value a node works on: its first argument."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def lowerable_layer(node: fx.Node) -> QuantizedLayer | None:
    """Return the layer of a node that can compute on integers and has a calibrated input."""
    module = module_of(node)
    if not isinstance(module, QuantizedLayer) or len(node.args) != 1 or node.kwargs:
        return None
    if module.input_qparams is None or why_not_integer(module) or has_hooks(module):
        return None
    return module


def is_idle(node: fx.Node) -> bool:
    """Whether a node returns its one input as it is, given that the model is in eval mode."""
    module = module_of(node)
    if module is None or has_hooks(module):
        return False
    return type(module) in _IDLE_MODULES and input_of(node) is not None


def is_reshaping(node: fx.Node) -> bool:
    """Whether a node moves values without changing them."""
    module = module_of(node)
    if module is not None:
        return isinstance(module, _RESHAPING_MODULES) and not has_hooks(module)
    if node.op == "call_method":
        return node.target in _RESHAPING_METHODS
    return node.op == "call_function" and node.target in _RESHAPING_FUNCTIONS


def is_max_pooling(node: fx.Node) -> bool:
    """Whether a node is a 2d max pooling layer that returns values alone."""
    module = module_of(node)
    return type(module) is nn.MaxPool2d and not module.return_indices and not has_hooks(module)


def clamp_of(node: fx.Node) -> str:
    """Return "relu" or "relu6" where a node is one of them, else ""."""
    module = module_of(node)
    if module is not None:
        if has_hooks(module):
            return ""
        return {nn.ReLU: RELU, nn.ReLU6: RELU6}.get(type(module), "")
    if node.op == "call_method":
        return RELU if node.target in ("relu", "relu_") else ""
    if node.op != "call_function":
        return ""
    return RELU6 if node.target is F.relu6 else RELU if node.target in _RELU_FUNCTIONS else ""


def gelu_of(node: fx.Node) -> str:
    """Return the kernels' name of the GELU that a node is, or ""."""
    module = module_of(node)
    if type(module) is nn.GELU and not has_hooks(module):
        return _GELU.get(module.approximate, "")
    if node.op == "call_function" and node.target is F.gelu:
        return _GELU.get(str(node.kwargs.get("approximate", "none")), "")
    return ""


def added_nodes(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the two nodes that a node adds, or None if it is no plain addition."""
    is_addition = (node.op == "call_function" and node.target in _ADDITIONS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )
    if not is_addition or node.kwargs or len(node.args) != 2:
        return None
    first, second = node.args
    if isinstance(first, fx.Node) and isinstance(second, fx.Node) and first is not second:
        return first, second
    return None


def is_value_node(node: Any) -> bool:
    """Whether a node computes something, rather than being an input, a constant or the output."""
    return node.op in ("call_module", "call_function", "call_method")
