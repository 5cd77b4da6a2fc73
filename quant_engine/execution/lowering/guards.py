"""Arguments that a traced forward does not follow: taken as they were traced, or refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from quant_engine.errors import DataError, UnsupportedLayerError

_NAME = "argument_check"
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device)


class ArgumentCheck(nn.Module):
    """Refuses calls that the graph does not stand for.

    Args:
        kept: Argument -> the value that it was traced with.
    """

    def __init__(self, kept: Mapping[str, Any]) -> None:
        super().__init__()
        self.kept = dict(kept)

    def forward(self, given: Mapping[str, Any]) -> None:
        """Check the arguments of a call.

        Raises:
            DataError: If one may lead elsewhere in the model's forward.
        """
        for name, kept in self.kept.items():
            value = given[name]
            if value is not kept and (type(value) is not type(kept) or value != kept):
                raise DataError(
                    f"The lowered model takes {name}={kept!r} only: it was traced so, and another "
                    "value may lead elsewhere in the forward. Use convert_execution(model), which "
                    "does not lower."
                )


def check_arguments(root: nn.Module, graph: fx.Graph) -> None:
    """Let a graph take all the arguments of its model, and check those that it does not follow.

    Args:
        root: The model, which gets a module that checks.
        graph: Its graph; the arguments it follows are placeholders.

    Raises:
        UnsupportedLayerError: If a default cannot be written into a graph.
    """
    places = {str(node.target): node for node in graph.nodes if node.op == "placeholder"}
    kept: dict[str, Any] = {}
    graph.inserting_after(list(places.values())[-1])
    for parameter in inspect.signature(root.forward).parameters.values():
        name = parameter.name
        if name in places:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            kept[name], places[name] = (), graph.placeholder(f"*{name}")
        elif parameter.kind is parameter.VAR_KEYWORD:
            kept[name], places[name] = {}, graph.placeholder(f"**{name}")
        else:
            kept[name] = _writable(name, parameter.default)
            places[name] = graph.placeholder(name, default_value=kept[name])
        graph.inserting_after(places[name])
    if kept:
        name = _NAME
        while hasattr(root, name):
            name += "_"
        root.add_module(name, ArgumentCheck(kept))
        checked = {key: node for key, node in places.items() if key in kept}
        graph.call_module(name, (checked,))


def _writable(name: str, default: Any) -> Any:
    parts = default if isinstance(default, tuple) else (default,)
    if not all(isinstance(part, _PLAIN) for part in parts):
        kind = type(default).__name__
        raise UnsupportedLayerError(f"The default of the argument {name!r} is a {kind}.")
    return default
