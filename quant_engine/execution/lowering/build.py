"""Writing the lowered graph of a captured program, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.lowering.marking import LAYER
from quant_engine.execution.lowering.patterns import (
    aten,
    clamp_of,
    input_of,
    is_idle,
    is_length,
    operands_of,
    passed_nodes,
)
from quant_engine.execution.lowering.placement import Fusion, Placement, place_codes
from quant_engine.execution.lowering.steps import (
    ClampCodes,
    LayerWithArguments,
    LoweredLayer,
    LoweredStep,
    MaxPoolCodes,
    RoundToCodes,
)
from quant_engine.graph.capture import Program
from quant_engine.graph.nodes import ROOT
from quant_engine.layers import QuantizedLayer
from quant_engine.model.modules import has_hooks

_ABOUT_MEMORY = (aten.as_strided.default, aten.view.dtype, aten.view_as_complex.default)


def build_lowered(program: Program, model: nn.Module, *, is_integer: bool) -> fx.GraphModule:
    """Return the lowered graph of a program as a module that runs it on a model's tensors.

    Args:
        program: What the model computes.
        model: The quantized model; its layers and tensors are shared.
        is_integer: Whether codes pass between layers, or the float values they stand for.

    Returns:
        A module that takes the tensors of the inputs and returns those of the outputs.

    Raises:
        UnsupportedLayerError: If no layer has a calibrated input, or one runs inside a branch.
    """
    builder = _Builder(program, model)
    builder.placement = place_codes(builder.source, builder.layers)
    if not builder.placement.fusions:
        raise UnsupportedLayerError("No layer of the model has a calibrated input range.")
    lowered = builder.build()
    for module in lowered.modules():
        if isinstance(module, LoweredStep):
            module.is_integer = is_integer
    return lowered


def build_plain(program: Program, model: nn.Module) -> fx.GraphModule:
    """Return the same with every layer called as it is."""
    return _Builder(program, model).build()


def _simplified(original: fx.Graph, tensors: Mapping[str, Any]) -> fx.Graph:
    """Copy a graph without what does nothing, and without trust in how values lie in memory.

    Integer layers lay out their results in another way than the layers of the model.
    """
    graph = fx.Graph()
    graph.output(graph.graph_copy(original, {}))
    lengths = _lengths(graph)
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif is_idle(node, tensors):
            source = input_of(node)
            if node.target not in (aten.clone.default, aten.detach.default, aten.alias.default):
                source = input_of(source) if source is not None else None
            assert source is not None
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif node.target is aten.view.default:
            node.target = aten.reshape.default
        elif node.target in _ABOUT_MEMORY:
            source = input_of(node)
            if source is not None and source.meta["val"].is_contiguous():
                with graph.inserting_before(node):
                    node.replace_input_with(
                        source, graph.call_function(aten.contiguous.default, (source,))
                    )
        elif is_length(node) and lengths.get(str(node.meta.get("val")), node) is not node:
            node.replace_all_uses_with(lengths[str(node.meta["val"])])
            graph.erase_node(node)
    graph.eliminate_dead_code()
    return graph


def _lengths(graph: fx.Graph) -> dict[str, fx.Node]:
    """Return symbol of a length -> the node that reads it off an input."""
    found: dict[str, fx.Node] = {}
    for node in graph.nodes:
        source = input_of(node)
        if is_length(node) and source is not None and source.op == "placeholder":
            found.setdefault(str(node.meta["val"]), node)
    return found


class _Builder:
    def __init__(self, program: Program, model: nn.Module) -> None:
        self.layers = {
            name: module
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, QuantizedLayer)
        }
        self.placement = Placement()
        self._tensors = dict(program.constants)
        for named in (model.named_parameters, model.named_buffers):
            self._tensors |= {f"{ROOT}.{name}": t for name, t in named(remove_duplicate=False)}
        self.source = _simplified(program.graph, self._tensors)
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}
        self._codes: dict[tuple[fx.Node, Grid], fx.Node] = {}

    def build(self) -> fx.GraphModule:
        for node in self.source.nodes:
            if node in self.placement.fused:
                continue
            fusion = self.placement.fusions.get(node)
            if fusion is not None:
                self._add_fusion(fusion)
            elif node in self.placement.codes_only and any(
                source in self.placement.codes_only for source in passed_nodes(node)
            ):
                self._add_codes_step(node)
            elif node.target is LAYER:
                self._values[node] = self._add_layer(node)
            elif node.op == "get_attr":
                self._values[node] = self._add_tensor(str(node.target))
            else:
                self._values[node] = self._graph.node_copy(node, self._any_of)
        self._graph.lint()
        return fx.GraphModule(self._root, self._graph, "LoweredGraph")

    def _any_of(self, node: fx.Node) -> fx.Node:
        """Return a value in any form, which is float unless only its length is asked for."""
        if node in self._values:
            return self._values[node]
        return self._codes[node, self.placement.grids[node]]

    def _codes_of(self, node: fx.Node, grid: Grid) -> fx.Node:
        """Return a value's codes; rounds it there if they are not made anywhere."""
        if (node, grid) not in self._codes:
            step = RoundToCodes(self.placement.qparams[grid])
            self._codes[node, grid] = self._call("round", step, self._values[node])
        return self._codes[node, grid]

    def _add_fusion(self, fusion: Fusion) -> None:
        placement = self.placement
        layer, source = placement.layers[fusion.layer], input_of(fusion.layer)
        assert source is not None
        takes_codes = source in placement.grids
        grid = placement.grids.get(source)
        operands = [self._values[source] if grid is None else self._codes_of(source, grid)]
        skip_grid = None
        if fusion.skip is not None:
            if fusion.skip in placement.codes_only:
                skip_grid = placement.grids[fusion.skip]
                operands.append(self._codes_of(fusion.skip, skip_grid))
            else:
                operands.append(self._values[fusion.skip])
        output = placement.grids[fusion.end] if fusion.end in placement.codes_only else None
        step = LoweredLayer(
            layer,
            str(fusion.layer.args[1]),
            takes_codes=takes_codes,
            activation=fusion.activation or "none",
            output=None if output is None else placement.qparams[output],
            skip=None if skip_grid is None else placement.qparams[skip_grid],
        )
        made = self._call(step.name, step, *operands)
        if output is not None:
            self._codes[fusion.end, output] = made
            return
        if any(user.op == "output" for user in fusion.end.users):
            made = self._graph.call_function(aten.contiguous.default, (made,))
        self._values[fusion.end] = made

    def _add_codes_step(self, node: fx.Node) -> None:
        """Repeat on codes a step that does not mind them."""
        grid = self.placement.grids[node]
        qparams = self.placement.qparams[grid]
        codes = {source: self._codes_of(source, grid) for source in operands_of(node)}
        activation = clamp_of(node)
        if activation:
            made = self._call("clamp", ClampCodes(qparams, activation), *codes.values())
        elif node.target is aten.max_pool2d.default:
            made = self._call("pool", MaxPoolCodes(node.args[1:]), *codes.values())
        else:
            made = self._graph.node_copy(node, lambda n: codes.get(n) or self._any_of(n))
        self._codes[node, grid] = made

    def _add_layer(self, node: fx.Node) -> fx.Node:
        """Call a layer as it is."""
        source, name, arguments = node.args
        layer = self.layers[str(name)]
        assert isinstance(source, fx.Node)
        if not arguments:
            return self._call(str(name), layer, self._values[source])
        if has_hooks(layer):
            raise UnsupportedLayerError(f"The layer {name!r} has hooks and several arguments.")
        step = LayerWithArguments(layer, arguments)  # type: ignore[arg-type]
        return self._call(str(name), step, self._values[source])

    def _add_tensor(self, name: str) -> fx.Node:
        value = self._tensors[name]
        attribute = name.replace(".", "_")
        while hasattr(self._root, attribute):
            attribute += "_"
        if isinstance(value, nn.Module):
            self._require_no_layer(value)
            self._root.add_module(attribute, value)
        elif isinstance(value, Tensor):
            self._root.register_buffer(attribute, value)
        else:
            setattr(self._root, attribute, value)
        return self._graph.get_attr(attribute)

    def _require_no_layer(self, part: nn.Module) -> None:
        for module in part.modules():
            nodes = module.graph.nodes if isinstance(module, fx.GraphModule) else ()
            if any(node.target is LAYER for node in nodes):
                raise UnsupportedLayerError("A quantized layer runs only if a value says so.")

    def _call(self, name: str, step: nn.Module, *operands: fx.Node) -> fx.Node:
        free = name = name.replace(".", "_") or "model"
        number = 1
        while hasattr(self._root, free):
            number += 1
            free = f"{name}_{number}"
        self._root.add_module(free, step)
        return self._graph.call_module(free, operands)
