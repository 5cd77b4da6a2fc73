"""What enters a layer in the float model, beside what enters it behind layers already quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch
from quant_engine.model.forward import PassEnded, layer_input, run_model, watched_layers
from quant_engine.preparation.prepared_model import PreparedModel
from quant_engine.remedies.codes import input_rows
from quant_engine.remedies.passes import watch_inputs


def count_calls(
    prepared: PreparedModel, names: Iterable[str], batches: Sequence[Batch]
) -> dict[str, int]:
    """Return how often layers run on all data, in the order in which they first do.

    A layer that nothing enters is left out.
    """
    calls: Counter[str] = Counter()
    watch_inputs(prepared, names, batches, lambda name, _: calls.update([name]))
    return calls


def paired_rows(
    prepared: PreparedModel,
    quantized: nn.Module,
    name: str,
    layer: QuantizedLayer,
    batches: Sequence[Batch],
    *,
    stops: bool,
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield what a layer's weights are multiplied with on each batch, in both models.

    Both draw the same random numbers, and each keeps from batch to batch what it keeps.

    Args:
        prepared: The float model.
        quantized: The quantized model, as it is by now.
        name: Name of the layer.
        layer: The layer of the quantized model.
        batches: The data.
        stops: Whether to end every pass behind the layer, which then may run once in a pass only.

    Yields:
        For each call of the layer its rows as `input_rows` gives them, float64: those in the float
        model, and those in the quantized one.
    """
    models = (prepared.model, quantized)
    for model in models:
        prepared.state.write(model)
    for batch in batches:
        with torch.random.fork_rng(devices=[]):
            random_state = torch.random.get_rng_state()
            found = []
            for model in models:
                torch.random.set_rng_state(random_state)
                found.append(_rows_on(prepared, model, name, layer, batch, stops))
        yield found[0], found[1]
    for model in models:
        prepared.state.write(model)


def _rows_on(
    prepared: PreparedModel,
    model: nn.Module,
    name: str,
    layer: QuantizedLayer,
    batch: Batch,
    stops: bool,
) -> list[Tensor]:
    found: list[Tensor] = []

    def observe(_: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], __: Any) -> None:
        x = layer_input(args, kwargs)
        if x is not None and x.numel():
            # A copy: what the model does in place afterwards would change it.
            found.append(input_rows(layer, x.detach().to(torch.float64, copy=True)))
        if stops:
            raise PassEnded

    with (
        watched_layers({name: model.get_submodule(name)}, observe),
        suppress(PassEnded),
        prepared.state.same_numbers(),
    ):
        run_model(model, batch)
    return found
