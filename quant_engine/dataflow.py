"""Which module's output goes to exactly one other module and nowhere else.

The forward of a throw-away copy is run once on symbols instead of tensors. Symbols come from
torch.fx; its own tracer is not used, because it patches `nn.Module` for the whole process while it
runs, and another thread's model would be caught in it.
"""

from __future__ import annotations

import dis
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from quant_engine.copying import copy_module
from quant_engine.errors import UnsupportedLayerError
from quant_engine.modules import has_hooks, plain_attributes
from quant_engine.nesting import map_nested
from quant_engine.symbols import LIBRARIES, SymbolTracer

Links = list[tuple[str, str]]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def trace_links(model: nn.Module) -> Links:
    """Find pairs of modules where the second gets the first one's output, and nobody else does.

    Both run exactly once. That must be so without the optional arguments of `forward`, with each of
    them and with all; a way through forward that runs neither of the two does not count.

    Args:
        model: Any module; it is not run and not changed.

    Returns:
        Pairs of names (producer, consumer), in the order they run.

    Raises:
        UnsupportedLayerError: If forward cannot be followed with symbols, for example because it
            decides on values, or takes arguments of any name; the message says why.
    """
    if _is_step(model):
        return []
    first, *others = [_trace(model, given) for given in _ways_to_call(model)]
    return [
        link
        for link in first.links
        if all(link in other.links or other.used.isdisjoint(link) for other in others)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Trace:
    """One way through a forward: its links, and the modules whose output or weights it used."""

    links: Links
    used: frozenset[str]


def _ways_to_call(model: nn.Module) -> list[frozenset[str]]:
    """Return sets of optional arguments to give: none, each alone, and all."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
    if any(_mentions(model.forward, name) for name in named):
        raise UnsupportedLayerError("The forward takes arguments of any name.")
    fixed = {*input_names(model), *named}
    optional = [p.name for p in parameters if p.name not in fixed and not _is_due(p)]
    ways = [(), *((name,) for name in optional), tuple(optional)]
    return [frozenset(way) for way in dict.fromkeys(ways)]


def _mentions(function: Callable[..., Any], name: str) -> bool:
    """Whether a function does something with a variable, as far as its code can be read."""
    code = getattr(function, "__code__", None)
    return code is None or any(step.argval == name for step in dis.get_instructions(code))


def _is_due(parameter: inspect.Parameter) -> bool:
    """Whether a parameter must be given, by name."""
    return parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty


def _trace(model: nn.Module, given: frozenset[str]) -> _Trace:
    """Follow the forward with some of its optional arguments given."""
    # With gradients on, whatever is computed from a parameter remembers that it was.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.data, p.is_floating_point()) for p in model.parameters()
    }
    try:
        sketch = copy_module(model, memo)
        recorder = _Recorder()
        recorder.stand_in_for(sketch)
        with torch.inference_mode(False), torch.enable_grad():
            args, kwargs = _arguments(sketch, given, recorder)
            result = sketch(*args, **kwargs)
        recorder.graph.output(recorder.create_arg(result))
        return _read(recorder, remembered_nodes(sketch), sketch)
    except Exception as error:
        call = f" (given {', '.join(sorted(given))})" if given else ""
        raise UnsupportedLayerError(f"{type(error).__name__}: {error}{call}") from error


def _arguments(
    model: nn.Module, given: frozenset[str], recorder: _Recorder
) -> tuple[list[Any], dict[str, Any]]:
    """Return what to call a forward with: symbols, and for a flag that is given its opposite."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    required = input_names(model)
    for parameter in inspect.signature(model.forward).parameters.values():
        name = parameter.name
        if name in required or (parameter.kind is parameter.VAR_POSITIONAL and name in given):
            args.append(recorder.placeholder(name))
        elif name in given and isinstance(parameter.default, bool):
            kwargs[name] = not parameter.default
        elif name in given or _is_due(parameter):
            kwargs[name] = recorder.placeholder(name)
    return args, kwargs


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


def _read(recorder: _Recorder, remembered: set[fx.Node], model: nn.Module) -> _Trace:
    steps = [node for node in recorder.graph.nodes if node.op == "call_module"]
    calls = Counter(str(node.target) for node in steps)
    modules = dict(model.named_modules())

    def is_read(module: nn.Module) -> bool:
        return any(_memory(p) in recorder.memory_used for p in module.parameters())

    def runs_alone(node: fx.Node) -> bool:
        module = modules.get(str(node.target))
        return (
            node.op == "call_module"
            and calls[str(node.target)] == 1
            and module is not None
            and not is_read(module)
        )

    links = []
    for node in steps:
        users = list(node.users)
        if len(users) != 1 or node in remembered:
            continue
        user = users[0]
        if runs_alone(node) and runs_alone(user) and user.args == (node,) and not user.kwargs:
            links.append((str(node.target), str(user.target)))
    read = {name for name, module in modules.items() if is_read(module)}
    return _Trace(links, frozenset({*calls, *read}))
