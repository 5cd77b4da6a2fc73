"""Layers that stand side by side, such as the projections of an attention, run as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from torch import Tensor, nn

from quant_engine.layers.base import QuantizedLayer
from quant_engine.modules import has_hooks, has_own_forward


def run_side_by_side(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run each layer on its own input; on integers, an input that several read is rounded once.

    Args:
        layers: Layers that do not depend on each other.
        inputs: One for each layer; the same tensor may stand for several.
    """
    if _run_on_integers(layers):
        form = layers[0].integer_form
        assert form is not None
        return form.run_all(layers, inputs)
    return [layer(x) for layer, x in zip(layers, inputs, strict=True)]


def _run_on_integers(layers: Sequence[nn.Module]) -> TypeGuard[Sequence[QuantizedLayer]]:
    """Whether all run on integers, and nobody watches or replaces a call of one of them."""
    return all(
        isinstance(layer, QuantizedLayer)
        and layer.integer_form is not None
        and layer.is_quantized
        and not has_hooks(layer)
        and not has_own_forward(layer)
        for layer in layers
    )
