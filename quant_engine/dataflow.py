"""Which module's output goes to exactly one other module and nowhere else.

The forward of a throw-away copy is run once on symbols instead of tensors. Symbols come from
torch.fx; its own tracer is not used, because it patches `nn.Module` for the whole process while it
runs, and another thread's model would be caught in it.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.modules import has_hooks, map_nested, plain_attributes
from quant_engine.symbols import LIBRARIES, SymbolTracer

Links = list[tuple[str, str]]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def trace_links(model: nn.Module) -> Links:
    """Find pairs of modules where the second gets the first one's output, and nobody else does.

    Both run exactly once. Arguments of `forward` that have defaults keep them.

    Args:
        model: Any module; it is not run and not changed.

    Returns:
        Pairs of names (producer, consumer), in the order they run.

    Raises:
        UnsupportedLayerError: If forward cannot be followed with symbols, for example because it
            decides on values; the message says why.
    """
    if _is_step(model):
        return []
    # With gradients on, whatever is computed from a parameter remembers that it was.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.data, p.is_floating_point()) for p in model.parameters()
    }
    try:
        sketch = copy.deepcopy(model, memo)
        recorder = _Recorder()
        recorder.stand_in_for(sketch)
        with torch.inference_mode(False), torch.enable_grad():
            names = input_names(sketch)
            result = sketch(*(recorder.create_proxy("placeholder", n, (), {}) for n in names))
        recorder.graph.output(recorder.create_arg(result))
        return _links(recorder, remembered_nodes(sketch), sketch)
    except Exception as error:
        raise UnsupportedLayerError(f"{type(error).__name__}: {error}") from error


def sequential_links(model: nn.Module) -> Links:
    """Find neighbours inside plain `nn.Sequential`s, where the order is known without tracing."""
    names = {id(module): name for name, module in model.named_modules()}
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    links = []
    for container in model.modules():
        if type(container) is not nn.Sequential:
            continue
        children = list(container)
        for first, second in pairwise(children):
            if places[id(first)] == places[id(second)] == 1:
                links.append((names[id(first)], names[id(second)]))
    return links


class _Recorder(SymbolTracer):
    """Writes down what happens to symbols, and which parameters are used outside their module."""

    def __init__(self) -> None:
        super().__init__()
        self.memory_used: set[int] = set()

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, fx.Proxy) and isinstance(a, Tensor):
            self.memory_used |= {_memory(tensor) for tensor in (a, *_parameters_behind(a))}
            return "tensor"
        return super().create_arg(a)

    def stand_in_for(self, module: nn.Module, name: str = "") -> None:
        """Make calls of torch's own layers, and of modules with hooks, a single step."""
        if _is_step(module):
            self.make_step(module, name)
            return
        for key, child in module.named_children():
            self.stand_in_for(child, f"{name}.{key}" if name else key)


def _is_step(module: nn.Module) -> bool:
    is_ours = type(module).__module__.startswith(LIBRARIES)
    return has_hooks(module) or (is_ours and type(module) not in _CONTAINERS)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _parameters_behind(tensor: Tensor) -> list[Tensor]:
    """Return the parameters that a tensor was computed from."""
    found = []
    seen: set[Any] = set()
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            found.append(step.variable)
        waiting += [previous for previous, _ in step.next_functions]
    return found


def input_names(module: nn.Module) -> list[str]:
    """Return the arguments of a module's forward that must be given; at least one if it has any."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [p.name for p in positional if p.default is p.empty]
    if not names:
        names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD][:1]
    return names


def remembered_nodes(model: nn.Module) -> set[fx.Node]:
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


def _links(recorder: _Recorder, remembered: set[fx.Node], model: nn.Module) -> Links:
    steps = [node for node in recorder.graph.nodes if node.op == "call_module"]
    calls = Counter(str(node.target) for node in steps)
    modules = dict(model.named_modules())

    def runs_alone(node: fx.Node) -> bool:
        module = modules.get(str(node.target))
        return (
            node.op == "call_module"
            and calls[str(node.target)] == 1
            and module is not None
            and not any(_memory(p) in recorder.memory_used for p in module.parameters())
        )

    links = []
    for node in steps:
        users = list(node.users)
        if len(users) != 1 or node in remembered:
            continue
        user = users[0]
        if runs_alone(node) and runs_alone(user) and user.args == (node,) and not user.kwargs:
            links.append((str(node.target), str(user.target)))
    return links
