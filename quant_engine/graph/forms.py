"""What models take and return: the tensors in it, what is left, and which calls are of one kind.

One captured program may stand for all calls of a kind.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, nn

from quant_engine.errors import UnsupportedLayerError

_ATOMS: tuple[type, ...] = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    FunctionType,
    nn.Module,
    Enum,
)
_ATOMS += (BuiltinFunctionType, MethodType, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where in a template a tensor belongs."""

    index: int


def take_apart(value: Any) -> tuple[list[Any], Any]:
    """Return the tensors in a value, and the value with slots in their places.

    Looks into tuples, lists, mappings and objects with attributes, such as dataclasses. A tensor in
    several places has one slot. A length that depends on the input's counts as a tensor.

    Example:
        >>> tensors, template = take_apart({"y": torch.ones(2), "n": 3})
        >>> template
        {'y': Slot(index=0), 'n': 3}
    """
    tensors: list[Any] = []
    slots: dict[int, Slot] = {}

    def note(leaf: Any) -> Slot:
        if id(leaf) not in slots:
            slots[id(leaf)] = Slot(len(tensors))
            tensors.append(leaf)
        return slots[id(leaf)]

    return tensors, _mapped(value, note, {})


def put_together(template: Any, tensors: Sequence[Any]) -> Any:
    """Return the value of a template with tensors in its slots; undoes `take_apart`."""
    if type(template) is Slot:
        return tensors[template.index]
    return _mapped(template, lambda slot: tensors[slot.index], {})


def _mapped(value: Any, change: Callable[[Any], Any], done: dict[int, Any]) -> Any:
    """Rebuild a value with its leaves changed; what several places share stays one object."""
    if isinstance(value, Tensor | SymInt | SymFloat | SymBool | Slot):
        return change(value)
    if isinstance(value, _ATOMS):
        return value
    if id(value) in done:
        return done[id(value)]
    result: Any
    if isinstance(value, tuple):
        entries = [_mapped(item, change, done) for item in value]
        result = type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
        done[id(value)] = result
        return result
    if type(value) in (list, dict):
        result = type(value)()
    elif isinstance(value, list | Mapping) or hasattr(value, "__dict__"):
        result = copy.copy(value)
    else:
        return value
    done[id(value)] = result
    if isinstance(value, list):
        result[:] = [_mapped(item, change, done) for item in value]
    elif isinstance(value, Mapping):
        for key, item in value.items():
            result[key] = _mapped(item, change, done)
    if hasattr(value, "__dict__"):
        for key, item in vars(value).items():
            vars(result)[key] = _mapped(item, change, done)
    return result


Axes: TypeAlias = tuple[tuple[int, ...], ...]

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
_PLAIN_BY_IDENTITY = (FunctionType, BuiltinFunctionType, type)


def kind_of(value: Any, tensors: list[Tensor], seen: dict[int, int]) -> Hashable:
    """Return what tells inputs of one kind from others, and collect their tensors.

    Raises:
        UnsupportedLayerError: If there is something whose changes could not be seen.
    """
    if isinstance(value, Tensor):
        if id(value) in seen:
            return seen[id(value)]
        seen[id(value)] = len(tensors)
        tensors.append(value)
        return value.shape, value.dtype, value.device
    kind = type(value)
    if kind in (tuple, list):
        return (kind, *[kind_of(item, tensors, seen) for item in value])
    if kind is dict:
        return (kind, *[(key, kind_of(item, tensors, seen)) for key, item in value.items()])
    if kind in _PLAIN or kind in _PLAIN_BY_IDENTITY:
        return kind, value
    raise UnsupportedLayerError(
        f"An argument is a {kind.__name__}, which may change between calls; calls with it run on "
        "the model itself. Give tensors, numbers, and tuples or dictionaries of them."
    )


def structure_of(kind: Any) -> Hashable:
    """Return the kind of inputs without the lengths of their axes."""
    if isinstance(kind, torch.Size):
        return len(kind)
    return tuple(map(structure_of, kind)) if isinstance(kind, tuple) else kind


def capture_attempts(
    shapes: Sequence[torch.Size], others: Sequence[Sequence[torch.Size]]
) -> list[tuple[list[torch.Size], Axes]]:
    """Return with which shapes and free axes to try a capture, the most general first.

    The first axis is free, and every axis whose length was another one before. A length of one
    would not stay free, so a batch of one sample is made one of two.
    """
    free = []
    for place, shape in enumerate(shapes):
        axes = {0} if len(shape) else set()
        axes |= {a for o in others for a in range(len(shape)) if o[place][a] != shape[a]}
        free.append(tuple(sorted(axes)))
    is_single = all(shape[0] == 1 for shape in shapes if shape)
    sizes = [torch.Size((2, *shape[1:])) if is_single and shape else shape for shape in shapes]
    nothing: Axes = tuple(() for _ in shapes)
    first_only: Axes = tuple((0,) if len(shape) else () for shape in shapes)
    attempts = [(sizes, tuple(free))]
    if tuple(free) != first_only:
        attempts.append((sizes, first_only))
    return [*attempts, (list(shapes), nothing)]
