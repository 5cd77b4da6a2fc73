"""Symbols that stand for tensors while a forward is followed, also where it asks what they are."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, GraphAppendingTracer

from quant_engine.errors import UnsupportedLayerError
from quant_engine.modules import has_hooks

LIBRARIES = ("torch.nn.", "quant_engine.")

_OPERATORS = operator.add.__module__
_MODULES_OF_SEVERAL = ("MultiheadAttention", "RNN", "LSTM", "GRU", "LSTMCell", "LogSoftmaxWithLoss")
_TENSOR_ATTRIBUTES = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
_NOT_ONE_TENSOR = frozenset(
    {
        *("size", "dim", "numel", "nelement", "ndimension", "stride", "item", "tolist", "numpy"),
        *("is_floating_point", "is_complex", "is_contiguous", "type", "data_ptr", "element_size"),
        *("chunk", "split", "tensor_split", "hsplit", "vsplit", "dsplit", "unbind"),
        *("topk", "sort", "max", "min", "median", "mode", "aminmax", "kthvalue"),
    }
)


class SymbolTracer(GraphAppendingTracer):
    """Appends to a new graph whatever happens to its symbols.

    Attributes:
        assumed_tensors: Arguments of the model whose type the forward asked for; it was told that
            they are tensors.
    """

    def __init__(self) -> None:
        super().__init__(fx.Graph())
        self.assumed_tensors: set[str] = set()
        self._unclear_steps: set[str] = set()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the symbol of a node."""
        return Symbol(node, self)

    def placeholder(self, name: str) -> fx.Proxy:
        """Return a symbol for an argument of the model."""
        return self.create_proxy("placeholder", name, (), {})

    def make_step(self, module: nn.Module, name: str) -> None:
        """Make every call of a module a single node, hooks and all."""
        if has_hooks(module) or not _gives_a_tensor(module):
            self._unclear_steps.add(name)
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()

        def forward(*args: Any, **kwargs: Any) -> fx.Proxy:
            return self.create_proxy("call_module", name, args, kwargs)

        vars(module)["forward"] = forward

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether a node's value is sure to be a tensor, given that the model's arguments are."""
        name = getattr(node.target, "__name__", str(node.target))
        if node.op == "placeholder":
            self.assumed_tensors.add(name)
            return True
        if node.op == "call_module":
            return name not in self._unclear_steps
        if node.op == "call_function" and node.target is getattr:
            return node.args[1] in _TENSOR_ATTRIBUTES
        if node.op == "call_function" and getattr(node.target, "__module__", "") == _OPERATORS:
            sources = node.all_input_nodes
            return any(self.is_tensor(source) for source in sources)
        return name not in _NOT_ONE_TENSOR


def _gives_a_tensor(module: nn.Module) -> bool:
    """Whether a module of torch or of this engine returns one tensor."""
    kind = type(module)
    has_several = kind.__name__.endswith(_MODULES_OF_SEVERAL)
    has_indices = bool(getattr(module, "return_indices", False))
    return kind.__module__.startswith(LIBRARIES) and not has_several and not has_indices


class Symbol(fx.Proxy):
    """A symbol that answers what it is, and what it has, as a tensor does."""

    tracer: SymbolTracer

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Tensor, where the value is sure to be one."""
        if not self.tracer.is_tensor(self.node):
            raise UnsupportedLayerError(
                f"The forward asks for the type of {self.node}, which may be no tensor."
            )
        return Tensor

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            raise AttributeError(f"A tensor has no attribute {name!r}.")
        return SymbolAttribute(self, name)


class SymbolAttribute(Symbol, Attribute):
    """A symbol for what an attribute of a tensor holds."""
