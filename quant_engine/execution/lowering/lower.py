"""Quantized models whose activations stay int8 from layer to layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from quant_engine.errors import UnsupportedLayerError
from quant_engine.execution.lowering.build import build_lowered, build_plain
from quant_engine.execution.lowering.flat import Freshness, leave_uncompiled, write_flat
from quant_engine.execution.lowering.marking import marked
from quant_engine.execution.lowering.steps import LoweredLayer
from quant_engine.graph.capture import Program, capture_program
from quant_engine.graph.forms import (
    capture_attempts,
    kind_of,
    put_together,
    structure_of,
    take_apart,
)
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch
from quant_engine.model.copying import share_parameters, share_tensors
from quant_engine.model.inputs import copy_inputs
from quant_engine.model.randomness import SOURCE

_MOST_PROGRAMS = 8
_MOST_FAILURES = 2
_LOWERING = threading.RLock()


@dataclass(eq=False)
class _Lowered:
    """What became of one kind of inputs: a program, or the reason why there is none."""

    structure: Hashable
    shapes: list[torch.Size]
    program: Program | None = None
    reason: str = ""


@dataclass(eq=False)
class _Call:
    """What runs for inputs of one kind, shapes and layouts: a graph, or the model itself."""

    run: Callable[..., Any] | None = None
    steps: fx.GraphModule | None = None
    output: Any = None


@dataclass(eq=False)
class _Bound:
    """Lowered graphs on the tensors of one model; a copy of the model makes its own."""

    graphs: dict[int, fx.GraphModule] = field(default_factory=dict)
    calls: dict[Hashable, _Call] = field(default_factory=dict)
    last: fx.GraphModule | None = None
    freshness: Freshness | None = None

    def __reduce__(self) -> tuple[type[_Bound], tuple[()]]:
        return _Bound, ()


class _Programs(list[_Lowered]):
    """Programs, which copies of a model share."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Programs:
        return _Programs(self)

    def __reduce__(self) -> tuple[type[_Programs], tuple[()]]:
        return _Programs, ()


class LoweredModel(nn.Module):
    """A quantized model that runs lowered graphs, one for each kind of inputs.

    A graph is captured when inputs of a new kind come: other types, numbers of axes or arguments,
    or lengths on which the forward depends. Where that is not possible the model itself runs, and
    `notes` say why; so it does under `torch.autocast`, which would change what float operations
    compute.

    Args:
        model: A quantized model in eval mode.

    Attributes:
        runs_steps: Whether to run a graph step by step, as modules that can be watched, also on
            integers, where otherwise the bare operations run.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._is_integer = False
        self.runs_steps = False
        self._programs = _Programs()
        self._bound = _Bound()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; arguments and result as in the model itself."""
        tensors: list[Tensor] = []
        try:
            kind = kind_of((args, kwargs), tensors, {})
        except UnsupportedLayerError as error:
            if str(error) not in self.notes:
                self._programs.append(_Lowered(None, [], reason=str(error)))
            return self.model(*args, **kwargs)
        if self._bound.freshness is not None and not self._bound.freshness.holds():
            self._bound = _Bound()
        key = (kind, *[tensor.stride() for tensor in tensors])
        call = self._bound.calls.get(key)
        if call is None:
            # Whoever compiles this model compiles what runs, not what prepares it.
            prepare = torch.compiler.disable(self._prepare)  # type: ignore[no-untyped-call]
            self._bound.calls[key] = call = prepare(args, kwargs, tensors)
        if call.run is None or _is_autocast(tensors):
            return self.model(*args, **kwargs)
        self._bound.last = call.steps
        run = call.steps if self.runs_steps and call.steps is not None else call.run
        if self.is_integer and torch.is_grad_enabled():  # integers have no gradient
            with torch.no_grad():
                return put_together(call.output, run(*tensors))
        return put_together(call.output, run(*tensors))

    def _prepare(self, args: Any, kwargs: Any, tensors: Sequence[Tensor]) -> _Call:
        """Decide what runs for inputs of which none had the same kind, shapes and layouts."""
        batch = Batch(args, kwargs)
        entry = self.lower_for(batch)
        if entry.program is not None:
            with _LOWERING:
                if not computes_the_same(entry.program, self.model, batch):
                    entry.program = None
                    entry.reason = (
                        "The graph of the forward gives other numbers than the model: the forward "
                        "does something that a graph does not show, such as assigning to `.data`."
                    )
        if entry.program is None:
            return _Call()
        steps = self._bound.graphs[id(entry)]
        self._bound.freshness = self._bound.freshness or Freshness(self.model)
        call = _Call(steps, steps, entry.program.output)
        if self.is_integer:
            copied = copy_inputs(Batch(tuple(tensors))).args
            call.run = write_flat(entry.program, steps, copied) or steps
        return call

    @property
    def is_integer(self) -> bool:
        """Whether codes pass between layers, or the float values that they stand for."""
        return self._is_integer

    @is_integer.setter
    def is_integer(self, value: bool) -> None:
        self._is_integer = value
        self._bound = _Bound()

    @property
    def notes(self) -> tuple[str, ...]:
        """Why inputs of some kinds run on the model itself, in words."""
        return tuple(dict.fromkeys(entry.reason for entry in self._programs if entry.reason))

    @property
    def graph(self) -> fx.GraphModule | None:
        """The lowered graph that ran last, or was captured first; None if there is none."""
        for entry in self._programs:
            if self._bound.last is None and entry.program is not None:
                self._bind(entry, entry.program)
        return self._bound.last

    def lower_for(self, batch: Batch) -> _Lowered:
        """Find or make the lowered graph for inputs; of the tensors only types and shapes matter.

        Raises:
            UnsupportedLayerError: If an argument is of a kind that no graph stands for.
        """
        tensors: list[Tensor] = []
        structure = structure_of(kind_of((batch.args, batch.kwargs), tensors, {}))
        with _LOWERING:
            alike = [entry for entry in self._programs if entry.structure == structure]
            failed = [entry for entry in alike if entry.program is None]
            for entry in alike:
                if _accepts(entry, tensors) or failed[_MOST_FAILURES - 1 :] == [entry]:
                    break
            else:
                entry = self._capture(structure, batch, tensors, alike)
                self._programs.append(entry)
            if entry.program is not None and id(entry) not in self._bound.graphs:
                self._bind(entry, entry.program)
        return entry

    def _bind(self, entry: _Lowered, program: Program) -> None:
        try:
            graph = build_lowered(program, self.model, is_integer=self.is_integer)
        except UnsupportedLayerError as error:
            entry.program, entry.reason = None, str(error)
            return
        self._bound.graphs[id(entry)] = graph
        self._bound.last = self._bound.last or graph

    def _capture(
        self, structure: Hashable, batch: Batch, tensors: list[Tensor], alike: Sequence[_Lowered]
    ) -> _Lowered:
        shapes = [tensor.shape for tensor in tensors]
        found = _Lowered(structure, shapes)
        if sum(entry.program is not None for entry in self._programs) >= _MOST_PROGRAMS:
            found.reason = (
                f"Inputs of more than {_MOST_PROGRAMS} kinds came; the model runs the others."
            )
            return found
        _, template = take_apart((batch.args, dict(batch.kwargs)))
        for sizes, free in capture_attempts(shapes, [entry.shapes for entry in alike]):
            blanks = [t.new_zeros(size) for t, size in zip(tensors, sizes, strict=True)]
            try:
                with marked(self.model) as copied:
                    program = capture_program(copied, blanks, template, free)
            except UnsupportedLayerError as error:
                found.reason = found.reason or str(error)
                continue
            if _passes(program.guards, tensors):
                found.program, found.reason = program, ""
                return found
        return found

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, in which the graphs were captured."""
        return super().train(False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load other numbers; graphs are bound to them anew."""
        super()._load_from_state_dict(*args, **kwargs)
        self._bound = _Bound()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the model; its graphs are captured again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._programs, self._bound = _Programs(), _Bound()
        return self


_TOLERANCE = 1e-2  # a graph that leaves something out is off by far more, ties of codes by less


def computes_the_same(program: Program, model: nn.Module, batch: Batch) -> bool:
    """Run a program and its model, layers simulated, and compare what they return.

    Args:
        program: The program.
        model: The quantized model; a copy of it runs, as a forward may change buffers.
        batch: What they run on.
    """
    expected = _run(_simulated(model), batch)
    plain = build_plain(program, _simulated(model))
    tensors, _ = take_apart((batch.args, dict(batch.kwargs)))
    try:
        found = _run(plain, Batch(tuple(tensors)))
    except Exception:  # whatever it is, the model itself does not raise it
        return False
    return len(found) == len(expected) and all(map(_is_near, found, expected))


def _simulated(model: nn.Module) -> nn.Module:
    copied = share_parameters(model)
    for module in copied.modules():
        if isinstance(module, QuantizedLayer):
            module.integer_form = None
            module._forward_hooks.clear()  # what watches a layer sees real calls only
            module._forward_pre_hooks.clear()
    return copied


def _run(model: nn.Module, batch: Batch) -> list[Any]:
    batch = copy_inputs(batch)
    with SOURCE, torch.random.fork_rng(devices=[]), torch.no_grad():
        return take_apart(model(*batch.args, **batch.kwargs))[0]


def _is_near(found: Any, expected: Any) -> bool:
    if not isinstance(found, Tensor) or not isinstance(expected, Tensor):
        return bool(found == expected)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not found.is_floating_point():
        return torch.equal(found, expected)
    is_same = (found == expected) | (found.isnan() & expected.isnan())
    difference = torch.where(is_same, 0.0, found - expected).double().norm()
    return bool(difference <= _TOLERANCE * expected[expected.isfinite()].double().norm())


def lower_model(model: nn.Module, example: Batch | None = None) -> LoweredModel:
    """Rebuild a quantized model so that values are rounded where they are made.

    Layers are fused with the addition and the activation after them, values that only quantized
    layers read are held as codes, and codes pass through ReLU, max pooling, reshaping and
    concatenation. A residual that is added to a convolution's output is read as codes too: that
    rounds it once more than the model as it was.

    Args:
        model: A quantized model; it is not changed, and shares its weights with the result.
        example: Inputs to capture the first graph with; of its tensors only types and shapes
            matter. Without it the graph is captured at the first call.

    Returns:
        The lowered model, simulated; `convert_execution` switches it to integers.

    Raises:
        UnsupportedLayerError: If the forward cannot be captured on the example, or no layer has a
            calibrated input.
    """
    layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    if not any(layer.input_qparams is not None for layer in layers):
        raise UnsupportedLayerError("No layer of the model has a calibrated input range.")
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer) and module.weight_dtype != torch.float32:
            dtype = str(module.weight_dtype).removeprefix("torch.")
            raise UnsupportedLayerError(
                f"The layer {name!r} is one of {dtype}; lowered models compute in float32. "
                "Quantize the model as model.float()."
            )
    lowered = LoweredModel(share_tensors(model)).eval()
    if example is not None:
        entry = lowered.lower_for(example)
        if entry.program is None:
            raise UnsupportedLayerError(entry.reason)
    return lowered


def is_lowered(model: nn.Module) -> bool:
    """Whether a model came from `lower_model`."""
    return isinstance(model, LoweredModel)


def lowered_steps(model: nn.Module) -> dict[str, LoweredLayer]:
    """Return the name of a quantized layer -> the step that runs it in the last lowered graph."""
    graph = model.graph if isinstance(model, LoweredModel) else None
    steps = [] if graph is None else [m for m in graph.modules() if isinstance(m, LoweredLayer)]
    return {step.name: step for step in reversed(steps)}


@contextmanager
def watchable(model: nn.Module) -> Iterator[Callable[[str], nn.Module]]:
    """Let the layers of a model, lowered or not, run as modules inside the context.

    Yields:
        The module that runs the layer of a name.
    """
    if not isinstance(model, LoweredModel):
        yield model.get_submodule
        return
    steps = lowered_steps(model)
    model.runs_steps = True
    try:
        yield lambda name: steps.get(name) or model.model.get_submodule(name)
    finally:
        model.runs_steps = False


def _accepts(entry: _Lowered, tensors: Sequence[Tensor]) -> bool:
    shapes = [tensor.shape for tensor in tensors]
    if shapes == entry.shapes:
        return True
    return entry.program is not None and _passes(entry.program.guards, tensors)


def _passes(guards: Callable[..., object], tensors: Sequence[Tensor]) -> bool:
    try:
        guards(*tensors)
    except AssertionError:
        return False
    return True


def _is_autocast(tensors: Sequence[Tensor]) -> bool:
    kind = tensors[0].device.type if tensors else "cpu"
    return kind != "meta" and torch.is_autocast_enabled(kind)


# `torch.compile` is to look at the operations of a graph, not at the search for the graph.
for _function in (LoweredModel.forward, kind_of, _is_autocast, Freshness.holds, put_together):
    leave_uncompiled(_function)
