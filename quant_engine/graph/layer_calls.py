"""The calls of convolutions and linear layers in a graph, and whose weights they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import fx, nn

from quant_engine.graph.nodes import attribute_of, module_path
from quant_engine.model.modules import (
    count_parameter_uses,
    has_hooks,
    has_own_forward,
    named_parameters_of,
)

aten = torch.ops.aten

CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
TRANSPOSED = (
    *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
)
LINEAR = aten.linear.default
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, LINEAR)
"""Operations that multiply a weight, their second argument, and add a bias, their third."""


class LayerCalls:
    """Which module each operation of a graph belongs to, and which tensors are read by it alone.

    Args:
        model: The model, in eval mode.
        graph: What it computes on a batch, by `capture_graph`.
    """

    def __init__(self, model: nn.Module, graph: fx.GraphModule) -> None:
        self._modules = dict(model.named_modules())
        self._uses = count_parameter_uses(model)
        self._calls = Counter(module_path(node) for node in graph.graph.nodes if _reads_own(node))
        self._readers = Counter[str]()
        for node in graph.graph.nodes:
            name = attribute_of(node)
            if name is not None:
                self._readers[name] += len(node.users)

    def module(self, name: str) -> nn.Module | None:
        """Return the module with this dotted name, or None."""
        return self._modules.get(name)

    def is_called_once(self, name: str) -> bool:
        """Whether a module's operation with weights runs once in a pass."""
        return self._calls[name] == 1

    def is_plain(self, name: str) -> bool:
        """Whether a module has neither hooks nor a forward of its own."""
        module = self._modules[name]
        return not has_hooks(module) and not has_own_forward(module)

    def reads_own(self, name: str, given: Mapping[str, object]) -> bool:
        """Whether an operation reads tensors of its module as they are, and nothing else does.

        Args:
            name: The module's name.
            given: Name of each tensor in the module -> the operation's argument, None where it
                has none.
        """
        module = self._modules[name]
        for key, argument in given.items():
            tensor = getattr(module, key, None)
            path = f"{name}.{key}" if name else key
            if (tensor is None) != (argument is None):
                return False
            if argument is not None and (
                attribute_of(argument) != path or self._readers[path] != 1
            ):
                return False
        return all(self._uses[id(p)] == 1 for p in named_parameters_of(module).values())

    def has_own_weight(self, name: str, node: fx.Node) -> bool:
        """Whether a layer's operation reads its weight and bias as they are, and nothing else.

        A bias can be given to such a layer.
        """
        module = self._modules[name]
        own = named_parameters_of(module)
        if "weight" not in own or not set(own) <= {"weight", "bias"} or own["weight"].is_meta:
            return False
        given = {"weight": node.args[1], "bias": node.args[2] if len(node.args) > 2 else None}
        is_own = self.reads_own(name, given)
        return is_own and own["weight"].is_floating_point() and "bias" in module._parameters


def _reads_own(node: fx.Node) -> bool:
    return node.target in (
        *(*LAYERS, aten.batch_norm.default),
        *(aten.layer_norm.default, aten.rms_norm.default),
    )


def value_readers(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that read the values of a node, not its shape alone."""
    return [
        user
        for user in node.users
        if not (user.target is aten.reshape_as.default and user.args[0] is not node)
    ]
