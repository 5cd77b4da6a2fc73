"""Symbols that stand for values while a forward is followed, and refuse to say what they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, GraphAppendingTracer

from quant_engine.errors import UnsupportedLayerError

LIBRARIES = ("torch.nn.", "quant_engine.")


class SymbolTracer(GraphAppendingTracer):
    """Appends to a new graph whatever happens to its symbols."""

    def __init__(self) -> None:
        super().__init__(fx.Graph())

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the symbol of a node."""
        return Symbol(node, self)

    def placeholder(self, name: str) -> fx.Proxy:
        """Return a symbol for an argument of the model."""
        return self.create_proxy("placeholder", name, (), {})

    def make_step(self, module: nn.Module, name: str) -> None:
        """Make every call of a module a single node, hooks and all."""
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()

        def forward(*args: Any, **kwargs: Any) -> fx.Proxy:
            return self.create_proxy("call_module", name, args, kwargs)

        vars(module)["forward"] = forward


class Symbol(fx.Proxy):
    """A symbol that has what a tensor has, and stands for it in torch's functions only.

    Asked for its type it raises: torch reads the memory of what calls itself a tensor, and a
    forward told "no tensor" would take a way that it does not take on data.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Refuse to answer `isinstance`, also where torch asks."""
        raise UnsupportedLayerError(
            f"The forward, or a function that it calls, asks for the type of {self.node}."
        )

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            raise AttributeError(f"A tensor has no attribute {name!r}.")
        return SymbolAttribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(Tensor, name):
            raise UnsupportedLayerError(f"The forward sets the attribute {name!r} of {self.node}.")
        super().__setattr__(name, value)


class SymbolAttribute(Symbol, Attribute):
    """A symbol for what an attribute of a tensor holds."""
