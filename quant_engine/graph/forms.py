"""The tensors in a value, and the value without them: what models take and return."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, nn

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
