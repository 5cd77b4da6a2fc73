"""Passes over all calibration data that watch layers: they begin alike and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.model.batches import Batch
from quant_engine.model.forward import LayerHook, PassEnded, layer_input, run_model, watched_layers
from quant_engine.preparation.prepared_model import PreparedModel


def watch_passes(
    prepared: PreparedModel,
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    observe: LayerHook,
) -> None:
    """Run a model on all data from its initial state on, and put it back into that.

    Args:
        prepared: Knows the state.
        model: The float model or a quantized one.
        layers: Layer name -> the layer of it to watch.
        batches: The data.
        observe: Called after each of them ran; ends a pass by raising `PassEnded`.
    """
    prepared.state.write(model)
    with watched_layers(layers, observe), torch.random.fork_rng(devices=[]):
        for batch in batches:
            with suppress(PassEnded), prepared.state.same_numbers():
                run_model(model, batch)
    prepared.state.write(model)


def watch_inputs(
    prepared: PreparedModel,
    names: Iterable[str],
    batches: Sequence[Batch],
    observe: Callable[[str, Tensor], None],
) -> None:
    """Call `observe(name, x)` with every input of some layers of the float model."""

    def note(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: Any) -> None:
        x = layer_input(args, kwargs)
        if x is not None and x.numel():
            observe(name, x.detach())

    layers = {name: prepared.model.get_submodule(name) for name in names}
    watch_passes(prepared, prepared.model, layers, batches, note)
