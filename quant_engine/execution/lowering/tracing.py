"""The graph of a model's forward: which layer gets whose output, and what happens in between.

The forward of a throw-away copy runs once on symbols of torch.fx. Its own tracer is not used: it
patches `nn.Module` for the whole process while it runs, and another thread's model would be caught.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution.lowering.aliasing import IN_PLACE_OPERATORS
from quant_engine.execution.lowering.guards import check_arguments
from quant_engine.execution.lowering.symbols import LIBRARIES, Symbol, SymbolTracer
from quant_engine.layers.transformer import SplitTransformerEncoder, SplitTransformerEncoderLayer
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import has_hooks, plain_attributes
from quant_engine.model.nesting import map_nested

_CONTAINERS = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    SplitTransformerEncoder,
    SplitTransformerEncoderLayer,
)


def trace_model(model: nn.Module) -> fx.GraphModule:
    """Write a model's forward down as a graph of torch's and this engine's layers.

    Arguments of `forward` that have defaults keep them; the graph takes them all the same, and
    refuses other values.

    Args:
        model: Any module in eval mode; it is not run and not changed.

    Returns:
        A module with the same layers under the same names, whose forward is the graph.

    Raises:
        UnsupportedLayerError: If the forward cannot be followed with symbols, for example because
            it decides on values or shapes; the message says why.
    """
    sketch = share_tensors(model)
    sketch.eval()
    recorder = _Recorder(sketch)
    try:
        if is_single_step(sketch):
            raise UnsupportedLayerError("The model is called as a whole: a layer, or with hooks.")
        with torch.inference_mode(False), torch.no_grad():
            recorder.stand_in_for(sketch, "")
            result = sketch(*(recorder.placeholder(name) for name in _input_names(model)))
        _require_plain_containers(result)
        if _remembered_nodes(sketch):
            raise UnsupportedLayerError("The forward keeps a value in an attribute for later.")
        recorder.graph.output(recorder.create_arg(result))
        root = share_tensors(model)
        check_arguments(root, recorder.graph)
        recorder.graph.lint()
        return fx.GraphModule(root, recorder.graph, type(model).__name__)
    except UnsupportedLayerError:
        raise
    except Exception as error:
        raise UnsupportedLayerError(f"{type(error).__name__}: {error}") from error


def is_single_step(module: nn.Module) -> bool:
    """Whether a module is called as a whole: torch's layers, this engine's, and hooked ones."""
    if has_hooks(module):
        return True
    return type(module).__module__.startswith(LIBRARIES) and type(module) not in _CONTAINERS


def _require_plain_containers(result: Any) -> None:
    """Check that a graph can give back what the forward does: other mappings would become dicts."""
    if not isinstance(result, fx.Proxy) and isinstance(result, dict | list | tuple):
        if not isinstance(result, tuple) and type(result) not in (dict, list):
            kind = type(result).__name__
            raise UnsupportedLayerError(f"The forward returns a {kind}. Return a dict or a tuple.")
        for value in result.values() if isinstance(result, dict) else result:
            _require_plain_containers(value)


class _Symbol(Symbol):
    """A symbol that `+=` and the like overwrite, as they do a tensor; fx would make a new value."""

    def _in_place(self, name: str, other: Any) -> fx.Proxy:
        operation = IN_PLACE_OPERATORS[name]
        return self.tracer.create_proxy("call_function", operation, (self, other), {})


def _overwriting(name: str) -> Callable[[_Symbol, Any], fx.Proxy]:
    return lambda symbol, other: symbol._in_place(name, other)


for _name in IN_PLACE_OPERATORS:
    setattr(_Symbol, f"__{_name}__", _overwriting(_name))


def _contexts() -> tuple[object, ...]:
    """Return what decides, besides its inputs, how torch computes a step."""
    torch.autocast_increment_nesting()
    depth = torch.autocast_decrement_nesting()
    return depth, torch.is_grad_enabled(), torch.get_default_dtype()


class _Recorder(SymbolTracer):
    """Writes the graph, and knows the names of parameters and buffers."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        named = (*root.named_parameters(), *root.named_buffers())
        self._names = {id(tensor): name for name, tensor in named}
        self._contexts: tuple[object, ...] | None = None

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a step, which must be computed as the ones before it: a graph has no contexts."""
        contexts = _contexts()
        if contexts != (self._contexts or contexts):
            raise UnsupportedLayerError(
                "The forward computes some steps in a context of their own (autocast, enable_grad)."
            )
        self._contexts = contexts
        return super().create_node(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy) or not isinstance(a, Tensor):
            return super().create_arg(a)
        if id(a) not in self._names:
            raise UnsupportedLayerError("The forward uses a tensor that is no parameter or buffer.")
        return self.create_node("get_attr", self._names[id(a)], (), {})

    def stand_in_for(self, module: nn.Module, name: str) -> None:
        """Make every single step a node, and every tensor of the modules around them a symbol."""
        if is_single_step(module):
            self.make_step(module, name)
            return
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is not None:
                    path = f"{name}.{key}" if name else key
                    cast(dict[str, Any], tensors)[key] = self.create_proxy("get_attr", path, (), {})
        for key, child in module.named_children():
            self.stand_in_for(child, f"{name}.{key}" if name else key)


def _input_names(module: nn.Module) -> list[str]:
    """Return the arguments of a module's forward that must be given; at least one if it has any."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [p.name for p in positional if p.default is p.empty]
    if not names:
        names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD][:1]
    return names


def _remembered_nodes(model: nn.Module) -> set[fx.Node]:
    """Return what modules kept as attributes: somebody may read it later."""
    found: set[fx.Node] = set()

    def note(value: object) -> object:
        if isinstance(value, fx.Proxy):
            found.add(value.node)
        return value

    for module in model.modules():
        for value in plain_attributes(module).values():
            map_nested(value, note)
    return found
