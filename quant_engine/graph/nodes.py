"""What the nodes of a captured graph belong to."""

from __future__ import annotations

from torch import fx

ROOT = "model"
"""Under this name a capture holds the model; paths are given without it."""


def module_path(node: fx.Node) -> str:
    """Return the dotted name of the module in whose forward a node was computed; "" for the model.

    A module that is called several times has the same path in all of its calls.
    """
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path.removeprefix(ROOT).removeprefix(".")


def source_of(node: fx.Node) -> fx.Node:
    """Return the node whose value an operation works on: its first argument."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def attribute_of(argument: object) -> str | None:
    """Return the dotted name of the parameter or buffer that an argument is, or None."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    return str(argument.target).removeprefix(f"{ROOT}.")
