"""Values within lists, tuples and dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def map_nested(value: Any, change: Callable[[object], object]) -> Any:
    """Apply `change` to a value and to all that lists, tuples and dictionaries in it hold.

    A container is rebuilt only if something in it changed; otherwise it is returned as it is.

    Example:
        >>> map_nested([1, (2, {"a": 3})], lambda v: -3 if v == 3 else v)
        [1, (2, {'a': -3})]
    """
    changed = change(value)
    if changed is not value:
        return changed
    if type(value) is dict:
        items = {key: map_nested(item, change) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in items) else value
    if type(value) is list or type(value) is tuple:
        entries = [map_nested(item, change) for item in value]
        is_same = all(new is old for new, old in zip(entries, value, strict=True))
        return value if is_same else type(value)(entries)
    return value


def nested_tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, and in lists, tuples and dictionaries within it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from nested_tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from nested_tensors(item)
