"""The tensors of a model's answer by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from quant_engine.model.nesting import nested_tensors


def named_tensors(answer: Any) -> list[tuple[str, Tensor]]:
    """Return the float tensors at the top of an answer that have an axis, with their names.

    A tensor without axes, such as a loss, is no answer about samples: it counts only where there is
    nothing else. Where nothing stands at the top, tensors further in do, without names.

    Returns:
        Pairs (key, attribute or field, tensor); the name is empty where the answer gives none.
    """
    found = [(name, x) for name, x in _entries(answer) if isinstance(x, Tensor)]
    if not any(x.is_floating_point() for _, x in found):
        found = [("", x) for x in nested_tensors(answer)]
    found = [(name, x) for name, x in found if x.is_floating_point()]
    return [(name, x) for name, x in found if x.dim()] or found


def other_names(answer: Any, judged: set[str]) -> list[str]:
    """Return the names of entries that hold tensors and are not among those judged."""
    names = [
        name
        for name, value in _entries(answer)
        if name and name not in judged and next(nested_tensors(value), None) is not None
    ]
    return list(dict.fromkeys(names))


def _entries(answer: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what stands at the top of an answer."""
    if isinstance(answer, Tensor):
        yield "", answer
    elif isinstance(answer, Mapping):
        yield from ((str(key), value) for key, value in answer.items())
    elif isinstance(answer, tuple | list):
        fields = getattr(answer, "_fields", ("",) * len(answer))
        yield from zip(fields, answer, strict=True)
    elif dataclasses.is_dataclass(answer):
        yield from ((f.name, getattr(answer, f.name)) for f in dataclasses.fields(answer))
    else:
        yield from getattr(answer, "__dict__", {}).items()
