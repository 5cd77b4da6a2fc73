"""Passes over all calibration data that watch layers: they begin alike and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.model.batches import Batch
from quant_engine.model.forward import LayerHook, PassEnded, layer_input, run_model, watched_layers
from quant_engine.preparation.prepared_model import PreparedModel


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Passes over calibration data.

    Attributes:
        prepared: The float model, which knows the state that passes begin in.
        batches: The data.
    """

    prepared: PreparedModel
    batches: Sequence[Batch]

    def watch(self, model: nn.Module, layers: Mapping[str, nn.Module], observe: LayerHook) -> None:
        """Run a model on all data from its initial state on, and put it back into that.

        Args:
            model: The float model or a quantized one.
            layers: Layer name -> the layer of it to watch.
            observe: Called after each of them ran; ends a pass by raising `PassEnded`.
        """
        state = self.prepared.state
        state.write(model)
        with watched_layers(layers, observe), torch.random.fork_rng(devices=[]):
            for batch in self.batches:
                with suppress(PassEnded), state.same_numbers():
                    run_model(model, batch)
        state.write(model)

    def watch_inputs(self, names: Iterable[str], observe: Callable[[str, Tensor], None]) -> None:
        """Call `observe(name, x)` with every input of some layers of the float model."""

        def note(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: Any) -> None:
            x = layer_input(args, kwargs)
            if x is not None and x.numel():
                observe(name, x.detach())

        model = self.prepared.model
        self.watch(model, {name: model.get_submodule(name) for name in names}, note)
