"""Which layers a remedy can treat together, and which reach which, without treating them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.graph.capture import capture_graph
from quant_engine.graph.layer_calls import LayerCalls
from quant_engine.graph.nodes import module_path
from quant_engine.model.batches import Data, iterate_batches
from quant_engine.preparation import list_layers
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.remedies.equalization import find_pairs
from quant_engine.remedies.readers import find_groups
from quant_engine.scheme import CrossLayerEqualization, Recipe, SmoothQuant


@dataclass(frozen=True, slots=True)
class SmoothingGroup:
    """Layers whose common input can be smoothed.

    Attributes:
        layers: The layers that read it, in the order they run.
        folded_into: Name of the layer that the division is folded into, which needs weights with a
            scale per channel; empty for a normalization.
    """

    layers: tuple[str, ...]
    folded_into: str = ""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the graph of a model proves about its layers.

    Attributes:
        pairs: Layers that can be equalized, each with the one that reads it.
        groups: Layers whose common input can be smoothed.
        upstream: Layer -> layers whose outputs reach it, in the order they run; None where the
            forward cannot be captured.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    groups: tuple[SmoothingGroup, ...] = ()
    upstream: Mapping[str, tuple[str, ...]] | None = field(default=None)


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
    try:
        graph = capture_graph(prepared.model, batch)
    except UnsupportedLayerError:
        return Targets()
    calls = LayerCalls(prepared.model, graph)
    pairs, _ = find_pairs(calls, graph, CrossLayerEqualization())
    groups, _ = find_groups(calls, graph, SmoothQuant(), Recipe.default())
    return Targets(
        pairs=tuple(pair.names for pair in pairs),
        groups=tuple(
            SmoothingGroup(
                tuple(reader.layer.name for reader in readers),
                "" if source.layer is None else source.name,
            )
            for source, readers in groups
        ),
        upstream=_find_upstream(graph, [layer.name for layer in list_layers(prepared.model)]),
    )


def _find_upstream(graph: fx.GraphModule, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return for each layer the layers whose outputs reach it."""
    known = set(names)
    reaching: dict[fx.Node, frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for node in graph.graph.nodes:
        before = frozenset[str]().union(*(reaching[other] for other in node.all_input_nodes))
        layer = module_path(node)
        if layer in known and node.op == "call_function":
            found[layer] = found.get(layer, frozenset()) | (before - {layer})
            before |= {layer}
        reaching[node] = before
    order = {name: place for place, name in enumerate(found)}
    return {name: tuple(sorted(found[name], key=order.__getitem__)) for name in found}
