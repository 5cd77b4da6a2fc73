"""Capturing a model's forward as a graph, by `torch.export`.

The model runs once on fake tensors, which have shapes and no values, so whatever can run can be
captured, whatever Python does between the operations. Where a forward decides on values, the
capture fails with an ordinary exception.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_settings

from quant_engine.errors import UnsupportedLayerError
from quant_engine.graph.forms import put_together, take_apart
from quant_engine.graph.nodes import ROOT
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_tensors
from quant_engine.model.modules import plain_attributes
from quant_engine.model.nesting import nested_tensors

# Capturing switches modes of the whole process, so captures take turns.
_TURN = threading.Lock()

_AUTOCAST = "wrap_with_autocast"
_GUARDS = "_guards_fn"


def capture_graph(model: nn.Module, batch: Batch) -> fx.GraphModule:
    """Capture what a model computes on a batch, operations that write in place and all.

    The graph consists of ATen operations. Convolutions, linear layers and attention are single
    operations; parameters and buffers are attributes under the names that they have in the model,
    behind "model.".

    Args:
        model: A model in eval mode. It is not changed: a copy of it that shares its tensors runs,
            and is thrown away with whatever forward set in it.
        batch: What to run it on. The shapes are those of the batch.

    Returns:
        The graph, whose output is the tuple of the tensors that the model returns.

    Raises:
        UnsupportedLayerError: If the forward cannot be captured; the message says why.
    """
    holder = _Holder(share_tensors(model))
    with _capturing():
        program = torch.export.export(holder, tuple(batch.args), dict(batch.kwargs), strict=False)
        return _module_of(program, check_guards=False)


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A model's forward as operations on tensors, none of which writes in place.

    Attributes:
        graph: Its placeholders are the tensors of the inputs, as `take_apart` finds them, its
            output the tuple of those in what the model returns. Nodes that read an attribute name
            it with "model." before the name that it has in the model.
        output: What the model returns, with slots for tensors; see `put_together`.
        constants: Tensors and graphs that nodes read and the model does not hold, by name.
        guards: Raises AssertionError on tensors of shapes that the graph does not stand for.
    """

    graph: fx.Graph
    output: Any
    constants: Mapping[str, Any]
    guards: Callable[..., object]


def capture_program(
    model: nn.Module, tensors: Sequence[Tensor], template: Any, free: Sequence[Sequence[int]]
) -> Program:
    """Capture what a model computes as operations that make new tensors.

    Args:
        model: A model in eval mode that is thrown away afterwards, with whatever forward set in it.
        tensors: Those of its inputs; only shape, type and device matter.
        template: Its arguments, (positional, by keyword), without them; see `take_apart`.
        free: For each of the tensors the axes whose length may change, unless the forward
            depends on it.

    Raises:
        UnsupportedLayerError: If the forward cannot be captured, computes under autocast, or keeps
            a value for later; the message says why.
    """
    holder = _FlatHolder(model, template)
    shapes = tuple(dict.fromkeys(axes, Dim.AUTO) for axes in free)
    with _capturing():
        # Also the lengths 0 and 1 are free then, where the forward does not ask for them.
        with shape_settings.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            program = torch.export.export(
                holder, tuple(tensors), strict=False, dynamic_shapes=(shapes,)
            )
            _require_no_autocast(program.graph)
            module = _module_of(program.run_decompositions({}), check_guards=True)
        _require_nothing_kept(holder.model)
    guards = getattr(module, _GUARDS, lambda *_: None)
    for node in module.graph.find_nodes(op="call_module", target=_GUARDS):
        module.graph.erase_node(node)
    return Program(module.graph, holder.answer.form, _constants(module, holder), guards)


@contextmanager
def _capturing() -> Iterator[None]:
    """Take a turn, and turn whatever goes wrong into a reason."""
    with (
        _TURN,
        warnings.catch_warnings(action="ignore"),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        try:
            yield
        except UnsupportedLayerError:
            raise
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), "")
            raise UnsupportedLayerError(
                f"The forward could not be captured: {type(error).__name__}: {reason}"
            ) from error


def _module_of(program: ExportedProgram, *, check_guards: bool) -> fx.GraphModule:
    module = program.module(check_guards=check_guards)
    assert isinstance(module, fx.GraphModule)
    return module


def _require_no_autocast(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if str(node.target) == _AUTOCAST and node.args[2]:
            raise UnsupportedLayerError(
                "The forward computes some steps in a context of their own (autocast), which a "
                "graph of float32 operations does not have."
            )


def _require_nothing_kept(model: nn.Module) -> None:
    """Check that forward set no attribute to a value that somebody may read later."""
    for name, module in model.named_modules():
        for key, value in plain_attributes(module).items():
            if any(isinstance(tensor, FakeTensor) for tensor in nested_tensors(value)):
                raise UnsupportedLayerError(
                    f"The forward keeps a value in an attribute for later ({key!r} of "
                    f"{name or 'the model'!r}), which a graph would lose."
                )


def _constants(module: fx.GraphModule, holder: _FlatHolder) -> dict[str, Any]:
    known = {
        f"{ROOT}.{name}"
        for named in (holder.model.named_parameters, holder.model.named_buffers)
        for name, _ in named(remove_duplicate=False)
    }
    names = {str(node.target) for node in module.graph.find_nodes(op="get_attr")} - known
    found = {}
    for name in names:
        value: Any = module
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


class _Holder(nn.Module):
    """Calls a model and returns the tensors in its output, in whatever they are held."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(take_apart(self.model(*args, **kwargs))[0])


class _FlatHolder(nn.Module):
    """Calls a model with tensors put into their places, and remembers the form of its output."""

    def __init__(self, model: nn.Module, template: Any) -> None:
        super().__init__()
        self.model = model
        self.template = template
        self.answer = SimpleNamespace()  # in here, as the exporter takes back attributes of modules

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = put_together(self.template, tensors)
        found, output = take_apart(self.model(*args, **kwargs))
        self.answer.form = output
        return tuple(found)
