"""What a forward pass leaves in a model for the next one, and how to put it back.

A model may keep something from pass to pass, in eval mode too: in a buffer, an attribute, a cache,
a generator of its own. It may draw from numpy or from Python's `random`. Passes that are compared
must begin alike, so before anything is measured the model runs a few times on the same samples:
what changes, and whether the next answer depends on it, is then known by name.
"""

from __future__ import annotations

import copy
import math
import random
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from quant_engine.errors import ModelForwardError, UnsupportedLayerError
from quant_engine.model.batches import Batch, first_samples
from quant_engine.model.forward import output_tensors, run_model
from quant_engine.model.modules import plain_attributes
from quant_engine.model.nesting import nested_tensors
from quant_engine.model.randomness import SOURCE, RandomNumbers

Snapshot: TypeAlias = Mapping[tuple[str, str], Any]
"""(module name, name of a buffer or attribute) -> its value; `_Absent` where there was none."""

_SAMPLES = 32
_OF_TORCH = frozenset(vars(nn.Module()))  # what torch itself keeps in every module
_SOURCES: Mapping[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "numpy": (np.random.get_state, np.random.set_state),
    "Python's random": (random.getstate, random.setstate),
}
_UNEXPLAINED = (
    "The model answers differently each time it runs on the same inputs, and nothing that could be "
    "set back explains it: no buffer, no attribute, no random numbers. Errors include that."
)


class _Absent:
    """Stands for an attribute that does not exist."""


class _Uncopied:
    """Stands for a value that Python cannot copy, which is left as it is."""


class _Buffer(NamedTuple):
    """The value of a buffer, and whether it is part of the state dict."""

    value: Any
    is_persistent: bool


@dataclass(frozen=True, slots=True, eq=False)
class PassState:
    """What a pass of a model changes, besides giving an answer.

    Attributes:
        initial: Buffers and attributes that a pass changes, as they were before the first one.
        reaches_next: Whether what one pass leaves there changes what the next one answers.
        sources: Random sources outside torch that a pass draws from -> the state to begin with.
        notes: All this in words, for reports.
        full_passes_because: Why no part of a pass can be replayed; empty if it can.
    """

    initial: Snapshot = field(default_factory=dict)
    reaches_next: bool = False
    sources: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    full_passes_because: str = ""

    def read(self, model: nn.Module) -> Snapshot:
        """Return a copy of what passes change, as it is in a model now."""
        return _snapshot(model, self.initial)

    def write(self, model: nn.Module, snapshot: Snapshot | None = None) -> None:
        """Put a snapshot into a model, or a copy of it; by default the initial one.

        The model gets tensors of its own, also where it shared them with another copy.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        copied = _copied(self.initial if snapshot is None else snapshot, model)
        for (name, key), value in copied.items():
            module = modules[name]
            if value is _Uncopied:
                continue
            if isinstance(value, _Buffer):
                module.__dict__.pop(key, None)
                module.register_buffer(key, value.value, value.is_persistent)
                continue
            module._buffers.pop(key, None)
            module._non_persistent_buffers_set.discard(key)
            if value is _Absent:
                module.__dict__.pop(key, None)
            else:
                module.__dict__[key] = value

    @contextmanager
    def same_numbers(self) -> Iterator[None]:
        """Draw the same numbers in every such block, and leave the sources as they were."""
        if not self.sources:
            yield
            return
        with SOURCE:
            before = _read_sources(self.sources)
            _write_sources(self.sources)
            try:
                yield
            finally:
                _write_sources(before)

    @contextmanager
    def leaving_no_trace(self, model: nn.Module) -> Iterator[None]:
        """Let passes of a model in its initial state change neither it nor random numbers."""
        with SOURCE, torch.random.fork_rng(devices=[]), self.same_numbers():
            try:
                yield
            finally:
                self.write(model)


class StateHistory:
    """In which state each variant of a model begins a batch: the one that its last batch left."""

    def __init__(self, initial: Snapshot) -> None:
        """Start before the first batch."""
        self._initial = initial
        self._known: dict[Hashable, tuple[int, Snapshot, Snapshot]] = {}

    def start(self, key: Hashable, batch: Batch, fallback: Hashable) -> Snapshot:
        """Return the state to begin a batch in; `fallback`'s for a variant that skipped some."""
        for candidate in (key, fallback):
            number, before, after = self._known.get(candidate, (-2, {}, {}))
            if batch.number in (number, number + 1) and batch.number:
                return before if batch.number == number else after
        return self._initial

    def keep(self, key: Hashable, batch: Batch, before: Snapshot, after: Snapshot) -> None:
        """Note in which states a variant began and ended a batch."""
        self._known[key] = (batch.number, before, after)


def find_pass_state(model: nn.Module, batch: Batch) -> PassState:
    """Find out what passes of a model leave behind, on a few samples; the model stays as it is.

    A model that fails on them is taken for one that leaves nothing: others will say why it fails.

    Raises:
        UnsupportedLayerError: If the first pass makes modules or parameters.
    """
    for samples in (first_samples(batch, _SAMPLES), batch):
        if samples is not None:
            try:
                return _watch_passes(model, samples)
            except ModelForwardError:
                continue
    return PassState()


def _watch_passes(model: nn.Module, samples: Batch) -> PassState:
    """Compare a pass after another one, on other samples if there are any, with one from the start.

    Other samples, because a model that keeps what it computed for these would answer the same.
    """
    start = _snapshot(model)
    names, hooks = _names_with_weights(model), _count_hooks(model)
    numbers, before = RandomNumbers(), _read_sources(_SOURCES)
    other = first_samples(samples, max(1, samples.samples // 2)) or samples
    sources: Mapping[str, Any] = {}
    try:
        numbers.run(lambda: run_model(model, other))
        if made := _names_with_weights(model) - names:
            raise UnsupportedLayerError(
                f"The forward makes {min(made)!r} when it runs for the first time, so it would "
                "differ from copy to copy. Run the model once on data, then try again."
            )
        if _count_hooks(model) != hooks:
            _put_back(model, start, but_new=True)
            start = _snapshot(model)
        sources = _moved(before)
        with PassState(sources=sources).same_numbers():
            after = _try_answer(model, samples, numbers)
            sources = _moved(sources)  # another thread may have drawn in the first pass
        initial = _put_back(model, start)
        state = PassState(initial, sources=sources)
        with state.same_numbers():
            first = _answer(model, samples, numbers)
        if after is not None and _is_same(first, after):
            return _described(state, numbers.are_drawn, is_explained=True)
        state.write(model)
        with state.same_numbers():
            is_explained = _is_same(first, _answer(model, samples, numbers))
        state = PassState(initial, bool(initial), sources)
        return _described(state, numbers.are_drawn, is_explained)
    finally:
        _put_back(model, start)
        _write_sources({name: before[name] for name in sources})


def _names_with_weights(model: nn.Module) -> set[str]:
    return {name for name, _ in (*model.named_modules(), *model.named_parameters())}


def _count_hooks(model: nn.Module) -> int:
    """Return how many hooks there are: transformers registers some when a model runs first."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _described(state: PassState, draws_from_torch: bool, is_explained: bool) -> PassState:
    notes, reasons = [], []
    drawn = [*(["torch"] if draws_from_torch else []), *state.sources]
    if drawn:
        reasons.append("the model draws random numbers")
        notes.append(
            f"The model draws random numbers (from {' and '.join(drawn)}): every pass on a batch "
            "is given the same ones."
        )
    if state.reaches_next:
        names = ", ".join(f"{module}.{key}" if module else key for module, key in state.initial)
        reasons.append(f"a pass depends on what the one before it left in {names}")
        notes.append(
            f"A pass changes {names}, and the next one depends on it. Every variant of the model "
            "goes through the data in order, from the state that the model came in."
        )
    if not is_explained:
        reasons.append("the model does not answer the same twice")
        notes.append(_UNEXPLAINED)
    reason = reasons[0] if reasons else ""
    return PassState(state.initial, state.reaches_next, state.sources, tuple(notes), reason)


def _answer(model: nn.Module, samples: Batch, numbers: RandomNumbers) -> list[Tensor]:
    output = numbers.run(lambda: run_model(model, samples))
    return [tensor.detach().clone() for tensor in output_tensors(output)]


def _try_answer(model: nn.Module, samples: Batch, numbers: RandomNumbers) -> list[Tensor] | None:
    """Return the answer, or None if the model fails, as one that keeps its last batch size does."""
    try:
        return _answer(model, samples, numbers)
    except ModelForwardError:
        return None


def _snapshot(model: nn.Module, keys: Iterable[tuple[str, str]] | None = None) -> Snapshot:
    """Copy buffers and attributes: those named, or all that torch itself does not keep."""
    modules = dict(model.named_modules())
    found: dict[tuple[str, str], Any] = {}
    if keys is None:
        for name, module in modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # what compiled code keeps cannot be put back
            attributes = {k: v for k, v in plain_attributes(module).items() if k not in _OF_TORCH}
            buffers = {key: _buffer(module, key) for key in module._buffers}
            found |= {(name, key): value for key, value in {**buffers, **attributes}.items()}
    else:
        for name, key in keys:
            module = modules[name]
            is_buffer = key in module._buffers
            found[name, key] = _buffer(module, key) if is_buffer else vars(module).get(key, _Absent)
    return _copied(found, model)


def _buffer(module: nn.Module, key: str) -> _Buffer:
    return _Buffer(module._buffers[key], key not in module._non_persistent_buffers_set)


def _copied(snapshot: Snapshot, model: nn.Module) -> Snapshot:
    """Copy values, but no parameters and modules of the model that they refer to."""
    known: dict[int, Any] = {id(x): x for x in (*model.parameters(), *model.modules())}
    for tensor in nested_tensors(list(snapshot.values())):
        if not tensor.is_leaf:
            known[id(tensor)] = tensor.detach().clone()
    copied = {}
    for key, value in snapshot.items():  # with one memory: what two of them share stays shared
        try:
            copied[key] = copy.deepcopy(value, known)
        except Exception:
            copied[key] = _Uncopied
    return copied


def _put_back(model: nn.Module, start: Snapshot, *, but_new: bool = False) -> Snapshot:
    """Undo what has changed since a full snapshot; returns what it was before.

    Args:
        model: What has changed.
        start: What it was.
        but_new: Whether attributes that were not there before stay, such as one that says that
            hooks are registered.
    """
    now = _snapshot(model)
    pairs = {key: (start.get(key, _Absent), now.get(key, _Absent)) for key in {**start, **now}}
    changed = {
        key: before
        for key, (before, after) in pairs.items()
        if not (but_new and before is _Absent)
        and before is not _Uncopied
        and after is not _Uncopied
        and not _is_same(before, after)
    }
    PassState(changed).write(model)
    return changed


def _read_sources(names: Iterable[str]) -> dict[str, Any]:
    return {name: _SOURCES[name][0]() for name in names}


def _write_sources(states: Mapping[str, Any]) -> None:
    for name, state in states.items():
        _SOURCES[name][1](state)


def _moved(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sources that were drawn from since they were in these states."""
    now = _read_sources(before)
    return {name: state for name, state in before.items() if not _is_same(state, now[name])}


def _is_same(one: Any, other: Any, met: dict[tuple[int, int], Any] | None = None) -> bool:
    """Whether two values, or an object and a copy of it, hold the same.

    Objects are compared by what pickling would store; those that cannot be pickled count as equal.
    """
    met = {} if met is None else met
    if one is other or (id(one), id(other)) in met:
        return True
    if type(one) is not type(other):
        return False
    met[id(one), id(other)] = (one, other)
    if isinstance(one, Tensor):
        return _is_same_tensor(one, other)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, int | str | bytes | complex | type | types.FunctionType):
        return bool(one == other)
    if isinstance(one, dict) and type(one) is dict:
        return one.keys() == other.keys() and all(_is_same(one[k], other[k], met) for k in one)
    if type(one) in (list, tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_is_same(a, b, met) for a, b in pairs)
    try:
        parts, others = (_stored(value) for value in (one, other))
    except Exception:
        return True
    return _is_same(parts, others, met)


def _stored(value: Any) -> Any:
    """Return what pickling would store of an object, iterators as lists."""
    parts = value.__reduce_ex__(4)
    if isinstance(parts, str):
        return parts
    return [list(part) if isinstance(part, Iterator) else part for part in parts]


def _is_same_tensor(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return False
    if one.layout is not torch.strided or one.is_quantized:
        return True
    return bool(((one == other) | ((one != one) & (other != other))).all())
