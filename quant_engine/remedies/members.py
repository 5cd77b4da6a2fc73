"""The layers that a remedy may change: those whose weights nothing else reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from quant_engine.graph import TRANSPOSED, LayerCalls, module_path
from quant_engine.remedies.chains import NotFollowedError, groups_of
from quant_engine.remedies.channels import Layer
from quant_engine.report import Treatment


def layer_of(calls: LayerCalls, node: fx.Node) -> Layer:
    """Return the layer that an operation belongs to.

    Args:
        calls: Of the graph that the operation is in.
        node: A convolution or linear operation.

    Raises:
        NotFollowedError: If something else reads its weights too, or it is called several times.
    """
    name = module_path(node)
    module = calls.module(name)
    if module is None:
        raise NotFollowedError(f"{name!r} has no module of its own")
    if not calls.is_called_once(name):
        raise NotFollowedError(f"{name!r} is called several times")
    if not calls.is_plain(name):
        raise NotFollowedError(f"{name!r} has hooks or a forward of its own")
    if not calls.has_own_weight(name, node):
        raise NotFollowedError(f"the weight of {name!r} is computed or shared")
    return Layer(name, module, groups_of(node), node.target in TRANSPOSED)


def describe_refusal(kind: str, names: Sequence[str], error: NotFollowedError) -> Treatment:
    """Return what the report says of layers that a remedy does not treat."""
    return Treatment(kind, tuple(names), is_applied=False, reason=str(error))
