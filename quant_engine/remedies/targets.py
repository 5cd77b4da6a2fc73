"""Which layers a remedy can treat together, without treating them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.graph import LayerCalls, capture_graph
from quant_engine.model.batches import Data, iterate_batches
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.remedies.equalization import find_pairs
from quant_engine.remedies.smoothing import find_groups
from quant_engine.scheme import CrossLayerEqualization, Recipe, SmoothQuant

Targets = Mapping[str, tuple[tuple[str, ...], ...]]
"""Kind of a remedy -> the groups of layers that it treats together, in the order they run."""


def find_targets(model: nn.Module, data: Data) -> Targets:
    """Find the pairs that can be equalized, and the layers whose common input can be smoothed.

    Args:
        model: The float model; it is not changed.
        data: A tensor or an iterable of batches, of which the first is read.

    Returns:
        The groups; none where the forward cannot be captured. Smoothing that would be folded into
        a layer is among them as it is for weights with a scale per channel.

    Raises:
        DataError: If there is no data.
        UnsupportedLayerError: If the model is not a module or cannot be copied.
    """
    prepared, data, _ = prepare_for(model, data)
    batch = next(iterate_batches(data))
    equalization, smoothing = CrossLayerEqualization(), SmoothQuant()
    try:
        graph = capture_graph(prepared.model, batch)
    except UnsupportedLayerError:
        return {equalization.kind: (), smoothing.kind: ()}
    calls = LayerCalls(prepared.model, graph)
    pairs, _ = find_pairs(calls, graph, equalization)
    groups, _ = find_groups(calls, graph, smoothing, Recipe.default())
    return {
        equalization.kind: tuple(pair.names for pair in pairs),
        smoothing.kind: tuple(
            tuple(reader.layer.name for reader in readers) for _, readers in groups
        ),
    }
