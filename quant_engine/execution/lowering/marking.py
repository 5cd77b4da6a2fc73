"""Keeping every call of a quantized layer a single operation while a forward is captured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.layers import QuantizedLayer
from quant_engine.layers.base import IntegerForm
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import has_hooks, has_own_forward

_LAYERS: ContextVar[Mapping[str, QuantizedLayer]] = ContextVar("layers of the captured model")


@torch.library.custom_op("quant_engine::layer", mutates_args=())
def layer_call(x: Tensor, name: str, arguments: list[int]) -> Tensor:
    """Stand for a call of the layer of that name, in graphs."""
    raise UnsupportedLayerError(f"The call of the layer {name!r} is not meant to be run.")


@layer_call.register_fake
def _(x: Tensor, name: str, arguments: list[int]) -> Tensor:
    layer = _LAYERS.get()[name]
    assert layer.quantized_weight is not None
    weight = torch.empty(layer.quantized_weight.shape, dtype=torch.float32, device=x.device)
    bias = None if layer.bias is None else weight.new_empty(layer.bias.shape)
    given = (tuple(arguments),) if arguments else ()
    return layer.compute(x.float(), weight, bias, *given)


LAYER = torch.ops.quant_engine.layer.default
"""The operation that a captured graph has for a call of a quantized layer."""


class LayerMark(IntegerForm):
    """Stands in for a layer's arithmetic while its model is captured.

    Args:
        name: The layer's dotted name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, layer: QuantizedLayer, x: Tensor, *arguments: Any) -> Tensor:
        """Write the call down; the output has the shape that the layer gives it."""
        given = [argument for argument in arguments if argument is not None]
        if len(given) > 1 or not all(isinstance(argument, tuple) for argument in given):
            raise UnsupportedLayerError(f"The layer {self._name!r} is called with {given!r}.")
        numbers = [int(number) for argument in given for number in argument]
        return cast(Tensor, torch.ops.quant_engine.layer(x, self._name, numbers))

    def run_all(self, layers: Sequence[QuantizedLayer], inputs: Sequence[Tensor]) -> list[Tensor]:
        """Write the calls down, one after the other."""
        return [layer.run(x) for layer, x in zip(layers, inputs, strict=True)]


@contextmanager
def marked(model: nn.Module) -> Iterator[nn.Module]:
    """Give a copy of a model whose layers of codes are single operations when it is captured.

    Raises:
        UnsupportedLayerError: If a module is watched or was replaced in a way a graph would lose.
    """
    copied = share_tensors(model)
    layers = {}
    for name, module in copied.named_modules():
        label = name or "the model"
        is_call = isinstance(module, QuantizedLayer) and module.is_quantized
        if has_hooks(module) and not (is_call and module.takes_float_input):
            raise UnsupportedLayerError(f"{label} has hooks, which a graph would lose.")
        if not isinstance(module, QuantizedLayer) or not module.is_quantized:
            continue
        if has_own_forward(module):
            raise UnsupportedLayerError(f"The forward of {name!r} was replaced on the instance.")
        # What watches a layer goes on watching it in the graph, which calls the layer itself.
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module.integer_form = LayerMark(name)
        layers[name] = module
    token = _LAYERS.set(layers)
    try:
        yield copied
    finally:
        _LAYERS.reset(token)
