"""Weights that a module reads in computations of its own: on codes, and dequantized when read.

`F.linear(x, self.weight)`, the stacked experts of a mixture and the weights of an LSTM have no
layer that could be replaced. Each such parameter moves into a small layer inside its module, whose
class then has a property of the parameter's name: whoever reads the parameter gets the values of
the layer, as a tensor of the parameter's shape. Only the weight is rounded; what it is multiplied
with stays float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import new_class
from typing import Any, ClassVar

from torch import Tensor, nn

from quant_engine.layers.base import QuantizedLayer
from quant_engine.layers.registry import register_quantized_layer

HOLDER = "weight_only"
"""Name of the submodule that the layers of a module's parameters lie in."""

_LEAST_COLUMNS = 16


class FunctionalWeight(nn.Module):
    """A parameter as a layer of its own, as a matrix of rows that get one scale each.

    Rows are the indices of the first axis; in a stack of matrices, the rows of every matrix.

    Attributes:
        weight: The matrix, (rows, columns).
        full_shape: Shape of the parameter.
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.full_shape = tuple(parameter.shape)
        rows = math.prod(self.full_shape[:-1]) if is_stack(parameter) else self.full_shape[0]
        self.weight = parameter
        if parameter.dim() > 2:
            matrix = parameter.detach().reshape(rows, -1)
            self.weight = nn.Parameter(matrix, parameter.requires_grad)

    def forward(self) -> Tensor:
        """Return the values of the parameter."""
        return self.weight.view(self.full_shape)


@register_quantized_layer(FunctionalWeight)
class QuantizedFunctionalWeight(QuantizedLayer):
    """A `FunctionalWeight` on codes; it has no input, so a scheme's activation part is left out."""

    takes_float_input = False
    float_arguments: ClassVar[tuple[str, ...]] = ("full_shape",)

    full_shape: tuple[int, ...]

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Raise: the weight is read, nothing is computed here."""
        raise NotImplementedError("A functional weight is read by the module that it is part of.")

    def forward(self) -> Tensor:  # type: ignore[override]
        """Return the values that the codes stand for, as the parameter had them."""
        return self.weight.view(self.full_shape)

    def extra_repr(self) -> str:
        """Show shape and scheme in `print(model)`."""
        return f"{self.full_shape}, {super().extra_repr()}"


def is_stack(parameter: Tensor) -> bool:
    """Whether a parameter is a stack of matrices, and no kernel of a few values per row."""
    return parameter.dim() == 3 and parameter.shape[-1] >= _LEAST_COLUMNS


def can_hold(module: nn.Module, key: str) -> bool:
    """Whether a parameter of a module can move into a layer: no name may be taken already."""
    return not hasattr(type(module), key) and not hasattr(module, HOLDER)


def hold_weights(module: nn.Module, keys: Sequence[str]) -> None:
    """Move parameters of a module into layers of their own, in place; see `FunctionalWeight`.

    The module's class is exchanged for a subclass of the same name that has the properties.
    """
    own = module._parameters
    layers = nn.ModuleDict({_key(key): FunctionalWeight(own.pop(key)) for key in keys})  # type: ignore[arg-type]
    module.add_module(HOLDER, layers.train(module.training))
    kind: Any = type(module)
    module.__class__ = _reading(kind, tuple(keys))


def held_weights(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of a module that lie in layers of their own."""
    keys: tuple[str, ...] = getattr(type(module), "_held_weights", ())
    return keys


def _key(name: str) -> str:
    """Return a parameter's name as a submodule's that no method of `ModuleDict` has."""
    return f"{name}_" if hasattr(nn.ModuleDict, name) else name


@cache
def _reading(kind: Any, keys: tuple[str, ...]) -> type[nn.Module]:
    """Return a subclass of a module's class that reads some parameters from their layers."""
    content: dict[str, Any] = {key: property(_reader(key)) for key in keys}
    content |= {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": _reduce,
        "_held_weights": keys,
    }
    if issubclass(kind, nn.RNNBase):
        content |= _OF_RECURRENT
    return new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(content))


def _reader(key: str) -> Callable[[nn.Module], Tensor]:
    def read(module: nn.Module) -> Tensor:
        layer: Any = module._modules[HOLDER]._modules[_key(key)]  # type: ignore[union-attr]
        weight: Tensor = layer.weight
        return weight.view(layer.full_shape) if weight.shape != layer.full_shape else weight

    return read


def _reduce(self: nn.Module, protocol: int) -> tuple[Any, ...]:
    """Copy and pickle by the class that was there before: the subclass has no importable name."""
    parts: tuple[Any, ...] = object.__reduce_ex__(self, 2)  # type: ignore[assignment]
    kind = type(self)
    return (_new, (kind.__bases__[0], kind._held_weights), *parts[2:])  # type: ignore[attr-defined]


def _new(kind: Any, keys: tuple[str, ...]) -> nn.Module:
    made = _reading(kind, keys)
    return made.__new__(made)


def _flat_weights(module: Any) -> list[Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(_module: nn.Module, _value: Any = None) -> None:
    """Do nothing: the list of weights is read anew for every pass."""


# torch keeps the weights in a list beside the parameters, and may lay them out in one block.
_OF_RECURRENT: Mapping[str, Any] = {
    "_flat_weights": property(_flat_weights, _ignore),
    "flatten_parameters": _ignore,
}
