"""Values within containers: those that torch's pytree knows, and dataclasses.

The only user of `torch.utils._pytree`, which has no public name. It opens lists, tuples, named
tuples, dictionaries and whatever a library registers, such as the outputs of transformers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_ATOMS = (int, float, bool, str, type(None), Tensor)
"""Types that hold nothing: asking the pytree of each would be most of the time."""


def leaves(value: Any) -> list[Any]:
    """Return what lists, tuples and dictionaries hold, registered kinds of them included."""
    return pytree.tree_leaves(value, is_leaf=_is_leaf)


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Rebuild lists, tuples and dictionaries around changed leaves.

    Example:
        >>> map_leaves([1, (2, {"a": 3})], lambda v: -v)
        [-1, (-2, {'a': -3})]
    """
    return pytree.tree_map(change, value, is_leaf=_is_leaf)


def _is_leaf(part: object) -> bool:
    return not isinstance(part, dict | list | tuple)


def map_nested(
    value: Any, change: Callable[[object], object], within: frozenset[int] = frozenset()
) -> Any:
    """Apply `change` to a value and to all that containers and dataclasses in it hold.

    Containers are rebuilt only if something in them changed; otherwise `value` itself is returned.
    What `change` changes is not looked into.

    Args:
        value: Any value.
        change: Returns what it is given, or what stands in its place.
        within: ids of what `value` is part of, as values may refer to each other.

    Example:
        >>> map_nested([1, (2, {"a": 3})], lambda v: -3 if v == 3 else v)
        [1, (2, {'a': -3})]
    """
    changed = change(value)
    if changed is not value or type(value) in _ATOMS or id(value) in within:
        return changed
    if isinstance(value, dict | list | tuple) and not value:  # as most tables of hooks
        return value
    within |= {id(value)}
    parts, structure = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
    if not structure.is_leaf():
        entries = [map_nested(part, change, within) for part in parts]
        is_same = all(new is old for new, old in zip(entries, parts, strict=True))
        return value if is_same else pytree.tree_unflatten(entries, structure)
    old = _fields(value)
    fields = {key: map_nested(part, change, within) for key, part in old.items()}
    if all(fields[key] is old[key] for key in old):
        return value
    result = copy.copy(value)
    for key, part in fields.items():
        object.__setattr__(result, key, part)
    return result


def nested_tensors(value: Any, within: frozenset[int] = frozenset()) -> Iterator[Tensor]:
    """Yield the tensors in a value, and in containers and dataclasses within it.

    Args:
        value: Any value.
        within: ids of what `value` is part of, as values may refer to each other.
    """
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif id(leaf) not in within:
            yield from nested_tensors(_held_by(leaf), within | {id(leaf)})


def _held_by(leaf: object) -> list[Any]:
    """Return what a container holds that pytree does not know."""
    if isinstance(leaf, Mapping):
        return list(leaf.values())
    if isinstance(leaf, list | tuple):
        return list(leaf)
    return list(_fields(leaf).values()) if dataclasses.is_dataclass(leaf) else []


def _fields(value: object) -> dict[str, Any]:
    """Return the fields that a dataclass holds; none for the class itself."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {}
    names = [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}
