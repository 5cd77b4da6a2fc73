"""Which quantized layer stands in for which float layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.layers.base import QuantizedLayer

Q = TypeVar("Q", bound=QuantizedLayer)

_QUANTIZED_TYPES: dict[type[nn.Module], type[QuantizedLayer]] = {}


def register_quantized_layer(float_type: type[nn.Module]) -> Callable[[type[Q]], type[Q]]:
    """Class decorator: the class quantizes layers whose type is exactly `float_type`.

    A subclass of `float_type` may compute something else, so it is not covered.

    For a layer of your own, write a `QuantizedLayer` that names the float layer's arguments in
    `float_arguments` and its float operation in `compute(x, weight, bias)`; set `channel_axis` and
    `output_axis` where channels lie elsewhere. The float layer has a parameter `weight`, and may
    have a `bias`. From then on every function here quantizes it; execution is simulated.
    """

    def register(quantized_type: type[Q]) -> type[Q]:
        _QUANTIZED_TYPES[float_type] = quantized_type
        return quantized_type

    return register


def is_quantizable(module: nn.Module) -> bool:
    """Whether there is a quantized layer for `module`'s type."""
    return type(module) in _QUANTIZED_TYPES


def get_quantized_type(module: nn.Module) -> type[QuantizedLayer]:
    """Return the quantized layer class for `module`.

    Raises:
        UnsupportedLayerError: If there is none.
    """
    try:
        return _QUANTIZED_TYPES[type(module)]
    except KeyError:
        names = ", ".join(kind.__name__ for kind in list_quantizable_types())
        raise UnsupportedLayerError(
            f"{type(module).__name__} has no quantized form. Types that do: {names}. "
            "Leave the layer in float."
        ) from None


def list_quantizable_types() -> list[type[nn.Module]]:
    """Return the float layer types that can be quantized, sorted by name."""
    return sorted(_QUANTIZED_TYPES, key=lambda kind: kind.__name__)
