"""From a quantized model to a graph in which activations stay int8 from layer to layer."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution.lowering.aliasing import follow_writes
from quant_engine.execution.lowering.attention import take_attention_apart
from quant_engine.execution.lowering.patterns import clamp_of, is_idle, is_max_pooling, module_of
from quant_engine.execution.lowering.placement import Fusion, Placement, place_codes
from quant_engine.execution.lowering.steps import (
    ClampCodes,
    LoweredLayer,
    MaxPoolCodes,
    RoundToCodes,
)
from quant_engine.execution.lowering.tracing import trace_model
from quant_engine.layers import QuantizedLayer


def lower_model(model: nn.Module) -> fx.GraphModule:
    """Rebuild a quantized model so that values are rounded where they are made.

    Layers are fused with the addition and the activation after them, values that only quantized
    layers read are held as codes, and codes pass through ReLU, max pooling and reshaping. A
    residual that is added to a convolution's output is read as codes too: that rounds it once more
    than the model as it was. Layers keep their names.

    Args:
        model: A quantized model; it is not changed, and shares its weights with the result.

    Returns:
        The lowered model, simulated; `convert_execution` switches it to integers.

    Raises:
        UnsupportedLayerError: If the forward cannot be traced, or no layer has a calibrated input.
    """
    traced = trace_model(model)
    _require_float32(traced)
    _drop_idle_steps(traced.graph)
    follow_writes(traced.graph)
    _let_views_copy(traced.graph)
    take_attention_apart(traced)
    placement = place_codes(traced.graph)
    if not placement.fusions:
        raise UnsupportedLayerError("No layer of the model has a calibrated input range.")
    graph = _Builder(traced, placement).build()
    lowered = fx.GraphModule(traced, graph, type(model).__name__)
    return lowered.eval()


def _drop_idle_steps(graph: fx.Graph) -> None:
    """Take out what does nothing in eval mode: dropout, and what is left of folded BatchNorms."""
    for node in list(graph.nodes):
        if is_idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _require_float32(traced: fx.GraphModule) -> None:
    """Check the types of layers: what lies between lowered ones has the type of their sums."""
    for name, module in traced.named_modules():
        if isinstance(module, QuantizedLayer) and module.weight_dtype != torch.float32:
            dtype = str(module.weight_dtype).removeprefix("torch.")
            raise UnsupportedLayerError(
                f"The layer {name!r} is one of {dtype}; lowered models compute in float32. "
                "Quantize the model as model.float()."
            )


def _let_views_copy(graph: fx.Graph) -> None:
    """Turn `view` into `reshape`: integer layers may lay out their results in another way."""
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"


class _Builder:
    """Writes the new graph, node by node."""

    def __init__(self, traced: fx.GraphModule, placement: Placement) -> None:
        self._traced = traced
        self._placement = placement
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}
        self._codes: dict[fx.Node, fx.Node] = {}
        self._taken: set[str] = set()
        self._used = {name for name, _ in traced.named_modules()} | set(vars(traced))

    def build(self) -> fx.Graph:
        """Return the graph; its modules are put into the traced module."""
        for node in self._traced.graph.nodes:
            if node in self._placement.fused:
                self._round_input_of(node)
                continue
            fusion = self._placement.fusions.get(node)
            if fusion is not None:
                self._add_fusion(fusion)
            elif node in self._placement.codes_only and self._passes_codes(node):
                self._add_codes_step(node)
            else:
                self._values[node] = self._graph.node_copy(node, self._value_of)
        self._graph.lint()
        return self._graph

    def _passes_codes(self, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        return isinstance(source, fx.Node) and source in self._placement.codes_only

    def _value_of(self, node: fx.Node) -> fx.Node:
        return self._values[node]

    def _codes_of(self, node: fx.Node) -> fx.Node:
        """Return the node of a value's codes; rounds it there if they are not made anywhere."""
        if node not in self._codes:
            qparams = self._placement.qparams[self._placement.grids[node]]
            name = self._free_name(f"round_{node.name}")
            self._codes[node] = self._call(name, RoundToCodes(qparams), self._values[node])
        return self._codes[node]

    def _round_input_of(self, node: fx.Node) -> None:
        """Round the input of a layer that runs later where the layer stood."""
        source = node.args[0]
        if node not in self._placement.layers or not isinstance(source, fx.Node):
            return
        if source in self._placement.grids:
            self._codes_of(source)

    def _add_fusion(self, fusion: Fusion) -> None:
        placement = self._placement
        layer = placement.layers[fusion.layer]
        source = fusion.layer.args[0]
        assert isinstance(source, fx.Node)
        takes_codes = source in placement.grids
        operands = [self._codes_of(source) if takes_codes else self._values[source]]
        skip_grid = None
        if fusion.skip is not None:
            if fusion.skip in placement.codes_only:
                skip_grid = placement.qparams[placement.grids[fusion.skip]]
                operands.append(self._codes_of(fusion.skip))
            else:
                operands.append(self._values[fusion.skip])
        gives_codes = fusion.end in placement.codes_only
        output = placement.qparams[placement.grids[fusion.end]] if gives_codes else None
        step = LoweredLayer(
            layer,
            takes_codes=takes_codes,
            activation=fusion.activation or "none",
            output=output,
            skip=skip_grid,
        )
        made = self._call(self._free_name(self._name_of(fusion)), step, *operands)
        if any(user.op == "output" for user in fusion.end.users):
            made = self._graph.call_method("contiguous", (made,))
        (self._codes if gives_codes else self._values)[fusion.end] = made

    def _name_of(self, fusion: Fusion) -> str:
        """Return the layer's name, or another one if somebody else calls the layer as it is.

        Somebody else may be a module that holds the layer and is called as a whole.
        """
        name = str(fusion.layer.target)
        callers = (
            node
            for node in self._traced.graph.nodes
            if node.op == "call_module" and f"{name}.".startswith(f"{node.target}.")
        )
        if all(node in self._placement.layers for node in callers):
            self._used.discard(name)
            return name
        return f"{name}_lowered"

    def _add_codes_step(self, node: fx.Node) -> None:
        """Repeat on codes a step that does not mind them."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        codes = self._codes_of(source)
        activation = clamp_of(node)
        if activation:
            qparams = self._placement.qparams[self._placement.grids[node]]
            name = self._free_name(f"clamp_{node.name}")
            self._codes[node] = self._call(name, ClampCodes(qparams, activation), codes)
        elif is_max_pooling(node):
            pool = cast(nn.MaxPool2d, module_of(node))
            name = self._free_name(f"pool_{node.name}")
            self._codes[node] = self._call(name, MaxPoolCodes(pool), codes)
        else:
            known = {**self._values, source: codes}
            self._codes[node] = self._graph.node_copy(node, known.__getitem__)

    def _call(self, name: str, step: nn.Module, *operands: fx.Node) -> fx.Node:
        self._traced.add_submodule(name, step)
        return self._graph.call_module(name, tuple(operands))

    def _free_name(self, name: str) -> str:
        """Return the name, or one like it if something has it already: a layer may run twice."""
        free, number = name, 1
        while free in self._taken or free in self._used:
            number += 1
            free = f"{name}_call{number}"
        self._taken.add(free)
        return free


def lowered_layers(model: nn.Module) -> dict[int, LoweredLayer]:
    """Return id of a quantized layer -> the step that runs it in a lowered model."""
    return {
        id(module.layer): module for module in model.modules() if isinstance(module, LoweredLayer)
    }


def is_lowered(model: nn.Module) -> bool:
    """Whether a model came from `lower_model`."""
    return any(isinstance(module, LoweredLayer) for module in model.modules())
