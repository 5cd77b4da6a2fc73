"""Kinds of inputs: which calls of a model one captured program may stand for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from quant_engine.errors import UnsupportedLayerError

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
