"""Values that are overwritten: whom a graph may trust to have the value it had when it was made."""

from __future__ import annotations

import operator
import re

from torch import fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution.lowering.patterns import input_of, is_value_node, module_of
from quant_engine.layers import QuantizedLayer
from quant_engine.model.modules import has_hooks

IN_PLACE_OPERATORS = {
    name: getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul")
}

_NEW_VALUE = re.compile(
    r"r?(add|sub|mul|truediv|floordiv|pow|matmul)|neg|cat|stack|(leaky_)?relu6?|gelu|silu|elu|"
    r"sigmoid|tanh|(log_)?softmax|hardswish|softplus|mean|sum|a(max|min)|(adaptive_)?(max|avg)_pool"
    r"[12]d|linear|conv[12]d|layer_norm|scaled_dot_product_attention|interpolate|clamp|clone|abs|"
    r"exp|log|r?sqrt|maximum|minimum|size|dim|numel|item"
)
"""Names of functions and methods whose result shares no memory with what they read."""

_PLAIN_ATTRIBUTES = ("shape", "dtype", "device", "ndim")
_SAME_MEMORY_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten)


def is_in_place(node: fx.Node) -> bool:
    """Whether a node may overwrite its first argument."""
    module = module_of(node)
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op == "call_method":
        name = str(node.target)
        return name.endswith("_") and not name.endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    is_operator = node.target in IN_PLACE_OPERATORS.values()
    return bool(node.kwargs.get("inplace")) or is_operator or name.endswith("_")


def follow_writes(graph: fx.Graph) -> None:
    """Let whoever reads a value after it was overwritten read the step that overwrote it.

    Raises:
        UnsupportedLayerError: If what is overwritten can be read in another way too: as a view, or
            under a name that may stand for a number, which no step overwrites.
    """
    order = {node: number for number, node in enumerate(graph.nodes)}
    _require_plain_writes(graph)
    for node in graph.nodes:
        target = input_of(node)
        if not is_value_node(node) or not is_in_place(node) or target is None:
            continue
        for user in [user for user in target.users if order[user] > order[node]]:
            if node.target in IN_PLACE_OPERATORS.values():
                raise _unclear(node)
            user.replace_input_with(target, node)


def _require_plain_writes(graph: fx.Graph) -> None:
    """Check that no step writes into memory that somebody else reads by a view of it."""
    memory: dict[fx.Node, set[fx.Node]] = {}
    views: set[fx.Node] = set()
    for node in graph.nodes:
        memory[node] = {node}
        if not is_value_node(node):
            continue
        sources = [] if _is_fresh(node) else node.all_input_nodes
        if is_in_place(node):
            target = input_of(node)
            if target is None or "out" in node.kwargs:
                raise _unclear(node)
            known = memory[target]
            has_views = not known.isdisjoint(views)
            if has_views and any(_is_read_beside(other, node, known, views) for other in known):
                raise _unclear(node)
            sources = [target]
        elif "out" in node.kwargs:
            raise _unclear(node)
        elif sources:
            views.add(node)
        joined = set().union({node}, *(memory[source] for source in sources))
        for member in joined:
            memory[member] = joined


def _is_read_beside(
    value: fx.Node, write: fx.Node, known: set[fx.Node], views: set[fx.Node]
) -> bool:
    """Whether anybody but the step that overwrites it, and the views on the way, reads a value."""
    return any(user is not write and not (user in known and user in views) for user in value.users)


def _is_fresh(node: fx.Node) -> bool:
    """Whether a node's result is surely in memory of its own."""
    if is_in_place(node):
        return False
    module = module_of(node)
    if module is not None:
        is_known = isinstance(module, QuantizedLayer) or type(module).__module__.startswith(
            "torch.nn."
        )
        is_same = isinstance(module, _SAME_MEMORY_MODULES) or "Dropout" in type(module).__name__
        return is_known and not is_same and not has_hooks(module)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.target is getattr:
        return node.args[1] in _PLAIN_ATTRIBUTES
    return _NEW_VALUE.fullmatch(name) is not None


def _unclear(node: fx.Node) -> UnsupportedLayerError:
    return UnsupportedLayerError(
        f"The step {node.name!r} overwrites a value that is read in another way too, as a view or "
        "under another name. Write a step that makes a new value."
    )
